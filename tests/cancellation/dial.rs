//! A dial whose callers, or whose runtime, have gone.

use std::time::Duration;

use crate::support::{self, Resp, TestServer, VendorScript, VendorServer, dials, impatient};
use crate::waiting::{HANG, clients, let_pass, poll_once, soon, until};
use crate::{pool, runtime};

/// More turns of the runtime than a dial needs to its end.
const TURNS: usize = 40;

/// Two scripts in which a dial hangs: before the first byte, and in the middle of an answer.
const HANGING: [VendorScript; 2] = [VendorScript::Nothing, VendorScript::HalfLine];

#[tokio::test]
async fn a_dial_goes_on_without_the_caller_that_wanted_it_and_ends_at_its_timeout() {
    for script in HANGING {
        let server = VendorServer::start(script).await.unwrap();
        let pool = impatient(&server.url()).connect_timeout(HANG).build().unwrap();
        let mut caller = Box::pin(pool.acquire("test"));
        assert!(poll_once(&mut caller).is_pending());
        until("the dial", &pool, || server.accepted() == 1).await;

        drop(caller);

        let status = pool.status();
        assert_eq!((status.waiting, status.dialing, status.live), (0, 1, 0), "{script:?}");
        let_pass(HANG).await;
        until("the timeout", &pool, || pool.status().dialing == 0).await;
        soon("the socket's end", server.all_closed()).await;
        assert_eq!(dials(&pool), [("timeout", 1)].into(), "{script:?}");
        assert_eq!(server.accepted(), 1, "{script:?}: nobody wanted a second dial");
    }
}

#[test]
fn a_dial_dropped_in_its_handshake_with_its_runtime_closes_its_socket() {
    for script in HANGING {
        let servers = runtime();
        let server = servers.block_on(VendorServer::start(script)).unwrap();
        let pool = pool(&server.url(), 2);
        let callers = runtime();
        callers.block_on(async {
            let mut caller = Box::pin(pool.acquire("test"));
            assert!(poll_once(&mut caller).is_pending());
            tokio::task::yield_now().await;
            assert_eq!(pool.status().dialing, 1);
        });

        drop(callers);

        let status = pool.status();
        assert_eq!((status.waiting, status.dialing, status.live), (0, 0, 0), "{script:?}");
        servers.block_on(soon("the socket's end", server.all_closed()));
    }
}

#[test]
fn a_dial_dropped_at_any_of_its_await_points_leaves_every_count_right() {
    let server = TestServer::start().unwrap();
    for resp in [Resp::Resp2, Resp::Resp3] {
        let url = server.url_with(support::Transport::Tcp, resp, support::Auth::None, 1);
        let mut reached_the_end = false;
        for turns in 0..TURNS {
            let pool = pool(&url, 2);
            let first = runtime();
            first.block_on(async {
                let mut caller = Box::pin(pool.acquire("test"));
                assert!(poll_once(&mut caller).is_pending());
                for _ in 0..turns {
                    // A turn of the runtime with a look at its sockets.
                    tokio::time::sleep(Duration::from_micros(50)).await;
                }
            });
            reached_the_end |= pool.status().live == 1;

            drop(first);

            let status = pool.status();
            let counts = (status.waiting, status.dialing, status.in_use, status.live, status.idle);
            assert_eq!(counts, (0, 0, 0, 0, 0), "{resp:?} after {turns} turns");
            runtime().block_on(async {
                until("no client", &pool, || clients(&server) == 0).await;
                let lease = soon("a caller of another runtime", pool.acquire("test")).await;
                drop(lease.unwrap());
                soon("close", pool.close()).await;
            });
        }
        assert!(reached_the_end, "{TURNS} turns are enough for a dial");
    }
}

#[test]
fn a_caller_that_is_left_behind_by_its_runtime_holds_up_nobody() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 2);
    let first = runtime();
    let mut left_behind = Box::pin(pool.acquire("test"));
    first.block_on(async { assert!(poll_once(&mut left_behind).is_pending()) });
    drop(first);

    runtime().block_on(async {
        drop(soon("a new caller", pool.acquire("test")).await.unwrap());
    });

    drop(left_behind);
    let status = pool.status();
    assert_eq!((status.waiting, status.dialing, status.in_use, status.live), (0, 0, 0, 0));
}

#[test]
fn a_dial_wanted_while_no_runtime_runs_is_made_by_the_next_one() {
    let server = TestServer::start().unwrap();
    let pool = pool(&server.url(), 2);
    let first = runtime();
    first.block_on(async { drop(pool.acquire("test").await.unwrap()) });
    drop(first);

    // Nothing is live now, so this asks for a dial, which no runtime can make.
    pool.try_acquire("test").unwrap_err();

    runtime().block_on(async {
        let served = soon("a caller in a new runtime", pool.acquire("test")).await;
        drop(served.unwrap());
    });
}
