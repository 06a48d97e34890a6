//! Three services before and after they moved to redis-guard: all do the same on a real server, and the guide shows
//! what changed in each.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../support/mod.rs"]
mod support;

mod guide;

/// On a pool of deadpool-redis.
mod deadpool {
    pub(crate) mod after;
    pub(crate) mod before;
}
/// On a pool of bb8.
#[allow(clippy::cast_possible_truncation, reason = "services do so")]
mod bb8 {
    pub(crate) mod after;
    pub(crate) mod before;
}
/// On redis-rs's `ConnectionManager`.
mod manager {
    pub(crate) mod after;
    pub(crate) mod before;
}

use std::error::Error;
use std::time::Duration;

use futures_util::future::try_join_all;
use support::{HANG, TestServer};
use tokio::time::{sleep, timeout};

/// Room for all callers of a test.
const ROOM: usize = 4;

/// Waits until the server has so many clients that block.
async fn blocked(server: &TestServer, clients: u64) {
    let waiting = async {
        while server.admin().info_u64("blocked_clients") != clients {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(HANG, waiting).await.unwrap();
}

/// On a machine under load a shop's own timeouts may run out: then from the start, on another server.
async fn in_time(scenario: impl AsyncFn() -> Result<(), Box<dyn Error>>) {
    for _ in 0..10 {
        match scenario().await {
            Ok(()) => return,
            Err(error) => eprintln!("once more, for {error}"),
        }
    }
    panic!("it failed ten times");
}

/// What every shop does, before and after.
macro_rules! shop {
    ($name:ident, $open:expr) => {
        mod $name {
            use super::*;

            #[tokio::test]
            async fn sessions_live_for_an_hour() {
                in_time(async || {
                    let server = TestServer::start()?;
                    let shop = ($open)(server.url()).await?;

                    shop.log_in("42", "alice").await?;

                    assert_eq!(shop.user("42").await?.as_deref(), Some("alice"));
                    assert_eq!(shop.user("43").await?, None);
                    let left: u64 = server.admin().text(&["TTL", "session:42"]).parse()?;
                    assert!((3500..=3600).contains(&left), "{left} s");
                    Ok(())
                })
                .await;
            }

            #[tokio::test]
            async fn the_limiter_admits_three() {
                in_time(async || {
                    let server = TestServer::start()?;
                    let shop = ($open)(server.url()).await?;

                    let mut admitted = Vec::new();
                    for user in ["alice", "alice", "alice", "alice", "bob"] {
                        admitted.push(shop.admits(user).await?);
                    }

                    assert_eq!(admitted, [true, true, true, false, true]);
                    Ok(())
                })
                .await;
            }

            #[tokio::test]
            async fn orders_are_packed_as_they_come() {
                in_time(async || {
                    let server = TestServer::start()?;
                    let shop = ($open)(server.url()).await?;
                    let packer = shop.clone();
                    let packing = tokio::spawn(async move { packer.pack(2).await });
                    blocked(&server, 1).await;
                    // Longer than the response timeout of others' commands.
                    sleep(Duration::from_millis(700)).await;

                    shop.order("apples").await?;
                    shop.order("pears").await?;

                    assert_eq!(timeout(HANG, packing).await???, ["apples", "pears"]);
                    Ok(())
                })
                .await;
            }

            #[tokio::test]
            async fn nothing_is_sold_twice_and_every_sale_is_heard() {
                in_time(async || {
                    let server = TestServer::start()?;
                    let shop = ($open)(server.url()).await?;
                    server.admin().text(&["SET", "stock:pears", "2"]);
                    let mut sales = shop.sales().await?;

                    // One place is the listener's.
                    let taken = try_join_all((1..ROOM).map(|_| shop.take("pears"))).await?;

                    assert_eq!(taken.iter().filter(|taken| **taken).count(), 2);
                    assert_eq!(server.admin().text(&["GET", "stock:pears"]), "0");
                    for _ in 0..2 {
                        let sold = timeout(HANG, sales.recv()).await?;
                        assert_eq!(sold.as_deref(), Some("pears"));
                    }
                    Ok(())
                })
                .await;
            }
        }
    };
}

/// What those with a pool do besides.
macro_rules! pool {
    ($name:ident, $shop:ty) => {
        mod $name {
            use super::*;

            #[tokio::test]
            async fn a_caller_who_waits_in_vain_hears_503() {
                in_time(async || {
                    let server = TestServer::start()?;
                    let shop = <$shop>::open(&server.url(), 1).await?;
                    let packer = shop.clone();
                    let packing = tokio::spawn(async move { packer.pack(1).await });
                    blocked(&server, 1).await;

                    let refused = shop.user("42").await.unwrap_err();

                    let seen = (refused.status_code(), shop.connections());
                    assert_eq!(seen, (503, (1, 1)), "{refused}");
                    server.admin().text(&["RPUSH", "orders", "apples"]);
                    assert_eq!(timeout(HANG, packing).await???, ["apples"]);
                    shop.order("pears").await?;
                    assert_eq!(shop.connections(), (1, 0));
                    Ok(())
                })
                .await;
            }
        }
    };
}

/// What those with deadpool's errors do besides.
macro_rules! errors {
    ($name:ident, $shop:ty) => {
        mod $name {
            use super::*;

            #[tokio::test]
            async fn a_server_that_is_gone_is_502_and_a_closed_pool_503() {
                let server = TestServer::start().unwrap();
                let shop = <$shop>::open(&server.url(), 1).await.unwrap();
                server.stop();

                let gone = shop.user("42").await.unwrap_err();
                shop.close();
                let closed = shop.user("42").await.unwrap_err();

                assert_eq!((gone.status_code(), closed.status_code()), (502, 503), "{gone}");
            }

            #[tokio::test]
            async fn a_url_that_is_none_is_an_error() {
                let wrong = <$shop>::open("nonsense", 1).await.err().unwrap();
                assert_eq!(wrong.status_code(), 500, "{wrong}");
            }
        }
    };
}

shop!(deadpool_before, async |url: String| deadpool::before::Shop::open(&url, ROOM).await);
shop!(deadpool_after, async |url: String| deadpool::after::Shop::open(&url, ROOM).await);
shop!(bb8_before, async |url: String| bb8::before::Shop::open(&url, ROOM).await);
shop!(bb8_after, async |url: String| bb8::after::Shop::open(&url, ROOM).await);
shop!(manager_before, async |url: String| manager::before::Shop::open(&url).await);
shop!(manager_after, async |url: String| manager::after::Shop::open(&url).await);

pool!(deadpool_pool_before, deadpool::before::Shop);
pool!(deadpool_pool_after, deadpool::after::Shop);
pool!(bb8_pool_before, bb8::before::Shop);
pool!(bb8_pool_after, bb8::after::Shop);

errors!(deadpool_errors_before, deadpool::before::Shop);
errors!(deadpool_errors_after, deadpool::after::Shop);
