//! Handles that are used from one runtime after the other, and from none.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::support::dials;
use crate::waiting::{HANG, cmd, until};
use crate::{ask, endpoint, lanes, pair, pair_with, send};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_handle_survives_the_runtimes_it_is_used_from() {
    let (_server, pool) = pair();
    let mut handle = pool.shared("search");

    for round in 1..=5 {
        let runtime = runtime();
        let echo: String = runtime.block_on(ask(&mut handle, &format!("ECHO {round}")));
        assert_eq!(echo, round.to_string());
        assert_eq!(lanes(&pool)[0].connections, round);
        drop(runtime);
        assert_eq!((pool.status().live, pool.status().in_use), (0, 0));
        assert!(!lanes(&pool)[0].up);
    }

    assert_eq!(dials(&pool), [("connected", 5)].into());
}

#[test]
fn a_runtime_that_ends_while_the_lane_is_dialed_leaves_the_next_one_free_to_dial() {
    let (server, pool) = pair();
    let mut handle = pool.shared("search");
    server.pause();
    let first = runtime();
    first.block_on(async {
        let ping = cmd("PING");
        let mut pending = Box::pin(handle.send(&ping));
        assert!(crate::waiting::poll_once(&mut pending).is_pending());
        until("a dial", &pool, || pool.status().dialing == 1).await;
    });
    drop(first);
    assert_eq!(pool.status().dialing, 0);
    server.resume();

    let pong: String = runtime().block_on(ask(&mut handle, "PING"));

    assert_eq!(pong, "PONG");
}

#[test]
fn a_command_in_flight_on_a_runtime_that_ends_leaves_its_place_free() {
    let (server, pool) = pair_with(|builder| builder.response_timeout(HANG));
    let mut handle = pool.shared("search");
    let first = runtime();
    let _: String = first.block_on(ask(&mut handle, "PING"));
    crate::hold_writes(&server);
    let mut clone = handle.clone();
    first.spawn(async move { send(&mut clone, "SET k v").await });
    first.block_on(async {
        until("on its way", &pool, || endpoint(&pool, "search").shared_in_flight == 1).await;
    });

    drop(first);

    let second = runtime();
    crate::let_writes_go(&server);
    second.block_on(async {
        let _: String = ask(&mut handle, "PING").await;
        until("the place free", &pool, || endpoint(&pool, "search").shared_in_flight == 0).await;
    });
}

#[test]
fn a_caller_on_another_runtime_is_served_although_the_keepers_has_ended() {
    let (server, pool) = pair_with(|builder| builder.acquire_timeout(Duration::from_secs(5)));
    let mut handle = pool.shared("search");
    let mut other = handle.clone();
    server.pause();
    let first = runtime();
    let second = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    first.block_on(async {
        let ping = cmd("PING");
        let mut pending = Box::pin(handle.send(&ping));
        assert!(crate::waiting::poll_once(&mut pending).is_pending());
        until("a dial", &pool, || pool.status().dialing == 1).await;
    });
    let waiting = second.spawn(async move { send(&mut other, "PING").await });
    second.block_on(async {
        until("both asked", &pool, || endpoint(&pool, "search").shared_in_flight >= 1).await;
    });

    drop(first);
    server.resume();

    let told = second.block_on(waiting).unwrap();
    assert!(told.is_ok(), "{told:?}");
}

#[test]
fn handles_are_made_cloned_and_dropped_without_a_runtime() {
    let (_server, pool) = pair();
    let handle = pool.shared("search");
    let clone = handle.clone();

    assert_eq!(format!("{clone:?}"), r#"SharedConnection { endpoint: "search", .. }"#);

    drop((handle, clone, pool));
}
