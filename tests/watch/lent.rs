//! Leases that are held for long: there is no connection to ask over.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::support::TestServer;
use crate::{LOOK, builder, hold, spy::Spy, warm};

/// Where the last word is so old, more is tried without asking: that is not to be waited for here.
const OLD: Duration = Duration::from_secs(15);

#[tokio::test]
async fn callers_who_keep_their_leases_get_as_many_as_there_may_be() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).max_connections(32).build().unwrap();

    let held = timeout(OLD, hold(&pool, 32)).await;

    assert!(held.is_ok(), "an empty server, and no more than: {:#?}", pool.status());
}

#[tokio::test]
async fn while_all_leases_are_held_nothing_is_sent_and_nothing_dialed() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).max_connections(4).build().unwrap();
    let _leases = warm(&pool, 4).await;
    let spy = Spy::on(&server);
    let received = server.admin().info_u64("total_connections_received");

    sleep(LOOK).await;

    assert_eq!(spy.lines().iter().map(|line| &line.command).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(server.admin().info_u64("total_connections_received"), received);
    assert_eq!((pool.status().live, pool.status().limit), (4, 4), "and nothing is taken away");
}

#[tokio::test]
async fn a_lease_that_comes_back_carries_the_question() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).max_connections(2).build().unwrap();
    let mut leases = warm(&pool, 2).await;
    sleep(LOOK).await;
    let age = || pool.status().watch.age.unwrap();
    assert!(age() > Duration::from_secs(3), "nobody could be asked: {:?}", age());

    // The watch waits for a lease nearly all of the time, so one of the first few finds it waiting.
    let mut returns = 0;
    let begun = Instant::now();
    while age() >= begun.elapsed() {
        assert!(returns < 5, "nothing was asked: {:#?}", pool.status());
        returns += 1;
        leases.pop();
        // Taken again at once: the question is on its way before its next holder's first command.
        leases.extend(hold(&pool, 1).await);
        sleep(Duration::from_millis(100)).await;
    }
}
