//! What the pools of a process share of a server.

use std::time::Duration;

use redis::ConnectionAddr;
use tokio::time::Instant;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn shared(host: &str) -> Arc<Server> {
    let address = ConnectionAddr::Tcp(host.to_owned(), 6379);
    Server::shared(&Address::new(&address, None).unwrap(), 7)
}

fn are_known(host: &str) -> bool {
    let servers = SERVERS.lock().unwrap();
    servers.contains_key(&(format!("{host}:6379"), false))
}

#[test]
fn a_server_is_shared_by_its_address_and_forgotten_with_the_last_of_its_pools() {
    let [one, other] = ["shared-1", "shared-2"].map(shared);
    assert!(Arc::ptr_eq(&one, &shared("shared-1")) && !Arc::ptr_eq(&one, &other));
    drop(other);
    let _third = shared("shared-3");
    assert!(!are_known("shared-2") && Arc::ptr_eq(&one, &shared("shared-1")));
}

/// Asks the server, and has it answer at once.
fn observe(server: &Arc<Server>, info: &str, now: Instant) -> Seen {
    let question = server.question(now, SECOND).expect("nobody else asks");
    question.answered(ServerSnapshot::parse(info.replace(' ', "\n")), now);
    server.seen().expect("it has answered")
}

/// Whether there is news of the server.
fn is_news(server: &Server, act: impl FnOnce()) -> bool {
    let mut news = std::pin::pin!(server.news());
    news.as_mut().enable();
    act();
    news.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
}

#[test]
fn one_pool_asks_at_a_time_until_it_is_given_up() {
    let (server, now) = (Server::alone("test", 7), Instant::now());
    assert_eq!(server.question_due(), None);
    let stuck = server.question(now, SECOND).expect("nobody asks");
    assert!(server.question(now, SECOND).is_none());
    assert_eq!(server.question_due(), Some(now + SECOND));
    let later = now + SECOND;
    let second = server.question(later, SECOND).expect("the first is given up");
    stuck.answered(ServerSnapshot::parse("maxclients:100"), later);
    assert!(server.seen().is_none(), "nobody waits for that any more");
    assert!(server.question(later, SECOND).is_none(), "the second asks");
    assert!(is_news(&server, || drop(second)), "another may ask");
    assert!(server.question(later, SECOND).is_some());
}

#[test]
fn a_server_that_does_not_answer_is_left_alone_for_longer_each_time() {
    let (server, mut now) = (Server::alone("test", 7), Instant::now());
    let mut waits = Vec::new();
    for _ in 0..9 {
        let question = server.question(now, SECOND).expect("it is due");
        question.failed(now);
        let due = server.question_due().expect("it is left alone");
        assert!(server.question(due - Duration::from_millis(1), SECOND).is_none());
        waits.push(due - now);
        now = due;
    }
    assert!(waits[0] <= SECOND / 2 && waits[8] > 7 * SECOND, "{waits:?}");
    observe(&server, "maxclients:100", now);
    assert_eq!(server.question_due(), None, "it answers");
    server.question(now, SECOND).expect("it is due").failed(now);
    assert!(server.question_due() <= Some(now + SECOND / 2), "from the beginning");
}

#[test]
fn a_question_that_was_given_up_has_not_failed() {
    let (server, now) = (Server::alone("test", 7), Instant::now());
    let stuck = server.question(now, SECOND).expect("nobody asks");
    let second = server.question(now + SECOND, SECOND).expect("the first is given up");
    stuck.failed(now + SECOND);
    drop(second);
    assert!(server.question(now + SECOND, SECOND).is_some());
}

#[test]
fn what_the_server_refused_and_what_happened_to_it_is_kept_for_those_who_look_later() {
    let (server, now) = (Server::alone("test", 7), Instant::now());
    for rejected in [5, 7, 10] {
        observe(&server, &format!("run_id:a rejected_connections:{rejected}"), now);
    }
    let seen = server.seen().expect("it has answered");
    assert_eq!((seen.number, seen.rejections), (3, 5));
    observe(&server, "run_id:b rejected_connections:0", now);
    assert_eq!(server.events_since(3), [ServerEvent::Restarted]);
    assert_eq!(server.events_since(4), []);
    for restart in 0..70 {
        observe(&server, &format!("run_id:{restart}"), now);
    }
    assert_eq!(server.events_since(0).len(), 64, "the last ones");
    assert_eq!(server.events_since(73).len(), 1);
}

#[test]
fn an_observation_tells_whether_there_is_room_as_of_when_it_was_asked_for() {
    let (server, now) = (Server::alone("test", 7), Instant::now());
    let full = "connected_clients:100 maxclients:100 rejected_connections:7";
    let free = "connected_clients:75 maxclients:100 rejected_connections:7";
    let first = observe(&server, free, now);
    assert!(first.tells_room() && !first.sees_room(now), "it may have refused somebody");
    let second = observe(&server, free, now);
    assert!(second.sees_room(now) && !second.sees_room(now + SECOND));
    assert_eq!(second.saturation(), Some(0.75));
    assert!(!observe(&server, full, now).sees_room(now));
    let refusing = observe(&server, &free.replace("connections:7", "connections:8"), now);
    assert!(!refusing.sees_room(now));
    assert!(!observe(&server, "connected_clients:75 maxclients:100", now).tells_room());
    assert!(!observe(&Server::alone("test", 7), "rejected_connections:8", now).tells_room());

    let status = second.status(now + 3 * SECOND);
    assert_eq!((status.age, status.saturation), (Some(3 * SECOND), Some(0.75)));
}

#[test]
fn what_a_pool_promises_itself_by_an_observation_is_told_to_the_others_that_go_by_it() {
    let (server, now) = (Server::alone("test", 7), Instant::now());
    let first = observe(&server, "connected_clients:75 maxclients:100", now);
    let promise = |seen: &Seen, more| {
        let mut told = None;
        server.promise(seen, |others| {
            told = Some(others);
            more
        });
        told.expect("it was asked")
    };
    assert_eq!([promise(&first, 3), promise(&first, 2), promise(&first, 0)], [0, 3, 5]);
    let second = observe(&server, "connected_clients:80 maxclients:100", now);
    assert_eq!([promise(&second, 4), promise(&first, 9), promise(&second, 0)], [0, 0, 4]);
}

struct Watches(Vec<(Arc<str>, WatchStatus)>);

impl Watching for Watches {
    fn watched(&self) -> Vec<(Arc<str>, WatchStatus)> {
        self.0.clone()
    }
}

#[test]
fn a_watch_over_several_pools_tells_of_each_server_and_of_the_fullest() {
    let now = Instant::now();
    let watch = |name: &str, info: &str| {
        let status = match info {
            "" => WatchStatus::default(),
            info => observe(&Server::alone(name, 7), info, now).status(now),
        };
        ServerWatch::of(Arc::new(Watches(vec![(name.into(), status)])))
    };
    let watch = ServerWatch::over([
        watch("silent", ""),
        watch("half", "connected_clients:50 maxclients:100"),
        watch("full", "connected_clients:99 maxclients:100"),
        watch("hidden", "connected_clients:999"),
    ]);
    let names: Vec<_> = watch.each().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names.iter().map(|name| &**name).collect::<Vec<_>>(),
        ["silent", "half", "full", "hidden"]
    );
    let (worst, seen) = watch.worst().expect("three have answered");
    assert_eq!((&*worst, seen.saturation()), ("full", Some(0.99)));
    let silent = ServerWatch::of(Arc::new(Watches(Vec::new())));
    assert!(silent.worst().is_none() && silent.each().is_empty());
}
