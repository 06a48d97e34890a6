//! How often members are asked to beat, and to look for news.

use super::script::{Script, ServerState};
use super::{Member, keys, load};

const MAXCLIENTS: u64 = 10_000;

/// What a reply says of the pace, in milliseconds, and the registry's news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    limit: i64,
    interval: i64,
    ttl: i64,
    glance: i64,
    news: i64,
}

struct World {
    script: Script,
    now_ms: u64,
    used: u64,
    seq: u64,
}

impl World {
    /// So many members that need nothing beyond their two connections.
    fn of(members: usize, used: u64) -> Self {
        let mut world = Self { script: load(), now_ms: 1_000_000, used, seq: 0 };
        world.all_beat(members, 2);
        world
    }

    fn beat(&mut self, id: usize, live: usize, hungry: bool) -> Pace {
        self.seq += 1;
        let member = Member { id, seq: self.seq, live, base: live, peak: live, hungry, max: 50 };
        let server = ServerState {
            now_ms: self.now_ms,
            connected_clients: self.used,
            maxclients: Some(MAXCLIENTS),
            ..ServerState::default()
        };
        let reply = self.script.run(server, &keys(), &member.args()).expect("a reply");
        let &[limit, interval, ttl, _, _, _, _, glance, news] = &reply[..] else {
            panic!("{reply:?}")
        };
        Pace { limit, interval, ttl, glance, news }
    }

    fn all_beat(&mut self, members: usize, live: usize) {
        for id in 0..members {
            self.beat(id, live, false);
        }
    }

    /// Everybody beats every five seconds.
    fn pass(&mut self, seconds: u64, members: usize, live: usize) {
        for _ in 0..seconds / 5 {
            self.now_ms += 5_000;
            self.all_beat(members, live);
        }
    }
}

#[test]
fn the_longer_a_fleet_is_calm_the_rarer_it_beats() {
    let mut world = World::of(250, 500);
    assert_eq!(world.beat(0, 2, false).interval, 3_000);
    world.pass(10, 250, 2);
    assert_eq!(world.beat(0, 2, false).interval, 10_000);
    world.pass(100, 250, 2);
    let calm = world.beat(0, 2, false);
    assert_eq!((calm.interval, calm.ttl), (30_000, 49_000), "no rarer than that");
}

#[test]
fn a_small_fleet_costs_little_and_beats_as_ever() {
    let mut world = World::of(20, 40);
    world.pass(100, 20, 2);
    assert_eq!(world.beat(0, 2, false).interval, 3_000);
}

#[test]
fn a_member_that_needs_more_beats_soon_and_the_others_need_not() {
    let mut world = World::of(200, 400);
    world.pass(100, 200, 2);
    let hungry = world.beat(0, 2, true);
    assert!(hungry.limit > 2, "{hungry:?}");
    assert_eq!(hungry.interval, 3_000);
    assert_eq!(world.beat(1, 2, false).interval, 25_000);
}

#[test]
fn where_slots_may_become_scarce_those_who_have_some_look_for_news() {
    let mut world = World::of(200, 6_000);
    world.pass(100, 200, 2);
    let with = |world: &mut World, live| {
        let Pace { interval, glance, .. } = world.beat(0, live, false);
        (interval, glance)
    };
    assert_eq!(with(&mut world, 30), (25_000, 3_000));
    assert_eq!(with(&mut world, 2), (25_000, 0), "it has nothing to give back");
    assert_eq!(with(&mut world, 10), (25_000, 0), "nor had it in a fleet twice as large");
    world.used = 3_000;
    assert_eq!(with(&mut world, 30), (25_000, 0), "there is room");
}

#[test]
fn when_slots_become_scarce_that_is_news_once_and_everybody_beats_sooner() {
    let mut world = World::of(200, 6_000);
    world.pass(100, 200, 2);
    let before = world.beat(0, 2, false).news;
    world.used = 9_000;
    let scarce = world.beat(0, 2, false);
    assert_eq!(scarce.news, i64::try_from(world.now_ms).expect("a time"));
    assert_ne!(scarce.news, before);
    assert_eq!(scarce.interval, 3_000);
    world.now_ms += 3_000;
    assert_eq!(world.beat(1, 2, false).news, scarce.news, "it is the same scarcity");
    world.pass(10, 200, 2);
    world.used = 6_000;
    world.pass(10, 200, 2);
    assert_eq!(world.beat(0, 2, false).interval, 10_000, "as long again");
}

#[test]
fn who_asks_in_vain_is_news_too() {
    let mut world = World::of(200, 6_000);
    world.pass(100, 200, 2);
    // Clients that are no members have the rest; the fleet may have no more than it has.
    world.used = MAXCLIENTS;
    let vain = world.beat(0, 2, true);
    assert_eq!(vain.limit, 2);
    assert_eq!(vain.news, i64::try_from(world.now_ms).expect("a time"));
}

#[test]
fn news_outlive_an_audit() {
    let mut world = World::of(200, 9_000);
    let news = world.beat(0, 2, false).news;
    world.pass(70, 200, 2);
    assert_eq!(world.beat(0, 2, false).news, news);
}

#[test]
fn a_fleet_of_thousands_beats_as_rarely_as_it_is_large() {
    let mut world = World::of(1_000, 9_000);
    assert_eq!(world.beat(0, 2, false).interval, 5_000);
}
