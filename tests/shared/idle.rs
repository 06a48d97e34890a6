//! A lane that nobody uses and that the server closes, as one with a `timeout` does.

use std::time::Duration;

use redis_guard::{Event, Events};
use tokio::time::sleep;

use crate::support::dials;
use crate::waiting::{let_pass, next, swept, until};
use crate::{ask, connections, kill, lane_id, lanes, pair_with};

/// How long a dial for nobody would have to begin; it takes less than a millisecond.
const CHANCE: Duration = Duration::from_millis(50);

async fn closed(events: &mut Events) {
    next("the close", events, |event| matches!(event, Event::ConnectionClosed { .. })).await;
}

#[tokio::test]
async fn it_is_dialed_again_for_the_next_caller_and_not_before() {
    let (server, pool) = pair_with(|builder| builder.leak_after(Duration::from_millis(40)));
    let mut handle = pool.shared("search");
    let id = lane_id(&mut handle).await;
    let_pass(Duration::from_secs(10)).await;
    // On a connection of its own.
    swept(&pool).await;
    let mut events = pool.events();

    kill(&server, id);

    closed(&mut events).await;
    sleep(CHANCE).await;
    assert_eq!((dials(&pool), connections(&server)), ([("connected", 2)].into(), 1));
    assert!(!lanes(&pool)[0].up);
    let again = lane_id(&mut handle).await;
    assert!(again != id && lanes(&pool)[0].up);
}

/// It was in use a moment ago, so the next caller is not far. But the one after it carried nothing.
#[tokio::test]
async fn one_that_was_in_use_is_replaced_once() {
    let (server, pool) = pair_with(|builder| builder.watch(false));
    let mut handle = pool.shared("search");
    let id = lane_id(&mut handle).await;
    kill(&server, id);
    until("a new lane", &pool, || lanes(&pool)[0].up && lanes(&pool)[0].connections == 2).await;
    let mut events = pool.events();

    server.admin().text(&["CLIENT", "KILL", "TYPE", "normal"]);

    closed(&mut events).await;
    sleep(CHANCE).await;
    assert_eq!((dials(&pool), connections(&server)), ([("connected", 2)].into(), 0));
    let _: String = ask(&mut handle, "PING").await;
    assert_eq!(dials(&pool), [("connected", 3)].into());
}
