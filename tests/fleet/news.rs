//! A member of a calm fleet beats rarely, and hears all the same when slots become scarce.

use std::time::Duration;

use redis_guard::internal::registry::{Record, registry_keys};

use tokio::time::Instant;

use crate::damage::beat;
use crate::support::TestServer;
use crate::waiting::until;
use crate::{fleet, has_joined, member};

/// Enough for beats that are 20 s apart on average, where it has been calm for long.
const GHOSTS: usize = 160;

/// The number of the last beat of the pool, the only member that is no ghost.
fn beats(server: &TestServer) -> u64 {
    let [members, ..] = registry_keys("test");
    let text = server.admin().text(&["HGETALL", &members]);
    let lines: Vec<_> = text.lines().collect();
    let ours = lines.chunks_exact(2).find(|pair| !pair[0].starts_with("ghost"));
    ours.and_then(|pair| Record::parse(pair[1].as_bytes())).map_or(0, |record| record.seq)
}

/// As if nothing had been scarce for an hour.
fn make_calm(server: &TestServer) {
    let [_, _, sums] = registry_keys("test");
    let state = server.admin().text(&["HGET", &sums, "state"]);
    let mut numbers: Vec<_> = state.split(' ').map(str::to_owned).collect();
    let busy: u64 = numbers[8].parse().unwrap();
    numbers[8] = (busy - 3_600_000).to_string();
    server.admin().text(&["HSET", &sums, "state", &numbers.join(" ")]);
}

fn ghost_beats(server: &TestServer, id: usize, numbers: &[&str]) {
    beat(server, "test", &format!("ghost-{id}"), numbers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_beats_rarely_hears_within_seconds_that_slots_have_become_scarce() {
    let server = TestServer::builder().maxclients(1_000).start().unwrap();
    let pool = member(&server).build().unwrap();
    // It has something to give back, and more than half of what the fleet may use is taken.
    let mut leases = Vec::new();
    for _ in 0..30 {
        leases.push(pool.acquire("work").await.unwrap());
    }
    let others = server.fill_to_leave(400);
    until("membership", &pool, || has_joined(&pool)).await;
    make_calm(&server);
    for id in 0..GHOSTS {
        ghost_beats(&server, id, &["1", "0", "1", "1", "0", "1", "0"]);
    }
    let before = beats(&server);
    leases.pop();
    until("a beat that knows of the calm", &pool, || beats(&server) > before).await;
    make_calm(&server);
    let calm = beats(&server);
    until("a beat in the calm", &pool, || beats(&server) > calm).await;
    let calm = beats(&server);

    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(beats(&server), calm, "nothing is new: {:#?}", fleet(&pool));

    let scarce = Instant::now();
    server.admin().set_maxclients(700);
    ghost_beats(&server, GHOSTS, &["1", "0", "9", "9", "1", "9", "0"]);
    until("a beat for the news", &pool, || beats(&server) > calm).await;
    // It looks every 3.9 s at the latest, and a busy machine takes its time. By itself it would beat 14 s after
    // the last beat at the earliest, which is 8 s from here.
    assert!(scarce.elapsed() < Duration::from_secs(7), "{:?}", scarce.elapsed());
    drop((leases, others));
}
