//! Bad input: an INFO without a ceiling, absurd demand, a registry that somebody wrote into.

use proptest::prelude::*;

use super::script::{Script, ServerState};
use super::{Member, keys, load};

const SERVER: ServerState = ServerState {
    now_ms: 1_000_000,
    connected_clients: 30,
    maxclients: Some(100),
    priority_clients: None,
};

fn member(id: usize, seq: u64) -> Member {
    Member { id, seq, live: 3, base: 5, peak: 9, hungry: true, max: 20 }
}

fn beat(script: &Script, server: ServerState, member: &Member) -> Vec<i64> {
    script.run(server, &keys(), &member.args()).expect("the script should not fail")
}

#[test]
fn a_hidden_or_impossible_ceiling_grants_nothing() {
    let script = load();
    for maxclients in [None, Some(0)] {
        assert_eq!(beat(&script, ServerState { maxclients, ..SERVER }, &member(1, 1)), [-1]);
    }
}

#[test]
fn absurd_demand_is_worth_no_more_than_what_the_member_may_have() {
    let script = load();
    let greedy = Member { base: usize::MAX, peak: usize::MAX, ..member(1, 1) };
    for id in 2..12 {
        beat(&script, SERVER, &member(id, 1));
    }
    assert!(beat(&script, SERVER, &greedy)[0] <= 20);
    let huge = Member { max: usize::MAX, seq: 2, ..greedy };
    assert!(beat(&script, SERVER, &huge)[0] <= 100);
    let modest = beat(&script, SERVER, &Member { live: 8, ..member(2, 2) })[0];
    assert!(modest >= 4, "the others keep their level: {modest}");
}

#[test]
fn a_beat_that_was_overtaken_changes_nothing() {
    let script = load();
    beat(&script, SERVER, &member(1, 7));
    let before = script.hash(&keys()[0]);
    assert_eq!(beat(&script, SERVER, &Member { live: 1, ..member(1, 6) }), [-1]);
    assert_eq!(script.hash(&keys()[0]), before);
}

#[test]
fn a_member_that_falls_silent_is_given_up_and_its_grant_is_free_again() {
    let script = load();
    let reply = beat(&script, SERVER, &member(1, 1));
    assert_eq!(reply[3], 1);
    let later = ServerState { now_ms: SERVER.now_ms + 10_001, ..SERVER };
    assert_eq!(beat(&script, later, &member(2, 1))[3], 1, "only the second is left");
}

#[test]
fn leaving_takes_everything_back() {
    let script = load();
    beat(&script, SERVER, &member(1, 1));
    let leave = ["leave".to_owned(), "member-1".to_owned()];
    assert_eq!(script.run(SERVER, &keys(), &leave).expect("a reply"), [0]);
    let sums = script.hash(&keys()[2]);
    assert!(sums["state"].starts_with("0 0 0 0 "), "{sums:?}");
    assert!(sums.keys().all(|name| !name.ends_with(char::is_numeric)), "{sums:?}");
}

const TEXTS: [&str; 12] = [
    "",
    "x",
    "-5",
    "1e9",
    "nan",
    "inf",
    "99999999999999999999",
    "3 4",
    "1 2 3 4 five",
    "1 2 3 4 5 6 7.5 8 9 10 11",
    "0 0 0 0 99999999999999999999 0 0.0 0 0 0 0",
    "3 3 3 3 2000000 2000000 999.9 2000000 2000000 2000000 0",
];

proptest! {
    #[test]
    fn whatever_is_written_into_the_registry_it_is_counted_and_repaired(
        writes in proptest::collection::vec((0..3_usize, 0..20_usize, 0..TEXTS.len()), 1..6),
        wrong_type in proptest::option::of(0..3_usize),
    ) {
        let script = load();
        for id in 0..5 {
            beat(&script, SERVER, &member(id, 1));
        }
        for (key, field, text) in writes {
            let name = match (key, field) {
                (0, _) => format!("member-{}", field % 6),
                (_, 0..9) => "state".to_owned(),
                _ => ["b5", "x4", "b9"][field % 3].to_owned(),
            };
            script.command(&["HSET", &keys()[if key == 0 { 0 } else { 2 }], &name, TEXTS[text]]);
        }
        if let Some(key) = wrong_type {
            script.command(&["SET", &keys()[key], "x"]);
        }
        for seq in 2..4 {
            // A minute apart, so that an audit has seen all of it.
            let server = ServerState { now_ms: SERVER.now_ms + seq * 61_000, ..SERVER };
            for id in 0..5 {
                let reply = beat(&script, server, &member(id, seq));
                prop_assert!((2..=20).contains(&reply[0]), "{reply:?}");
                if seq == 3 && id == 4 {
                    prop_assert!(reply[6] > 0, "nobody noticed: {:?}", script.hash(&keys()[2]));
                }
            }
        }
        let members = script.hash(&keys()[0]);
        let granted: u64 = members.values()
            .map(|record| record.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).expect("a count"))
            .sum();
        let state = &script.hash(&keys()[2])["state"];
        prop_assert_eq!(state.split(' ').next(), Some(&*granted.to_string()));
    }
}
