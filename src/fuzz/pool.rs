//! A pool whose servers say anything.

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{Cmd, Value};
use tokio::time::timeout;

use super::server::{Script, against};
use crate::{Error, Fleet, GuardedPool, GuardedPoolBuilder};

const PASSWORD: &str = "hush-hush-7";

/// No caller waits for longer: it may find a server, wait for a connection and a reply, and be sent elsewhere, a few
/// times each.
const HANG: Duration = Duration::from_secs(60);

/// How long the pool lives on without callers: the watch, the fleet and the sentinels are heard meanwhile.
const IDLE: Duration = Duration::from_secs(20);

/// More dials in that time are a storm.
const MANY_DIALS: usize = 500;

/// The first byte says of which topology the pool is and how it is used, the rest what the servers say.
pub fn run(data: &[u8]) {
    let Some((&how, said)) = data.split_first() else { return };
    let script = Script::new(said, how & 0x80 == 0);
    against(&script, async {
        let Ok(pool) = builder(how).build() else { panic!("settings that are right") };
        for call in 0..3 {
            let used = timeout(HANG, use_it(&pool, how.wrapping_add(call << 5)));
            used.await.expect("every call ends");
        }
        tokio::time::sleep(IDLE).await;
        let shown = format!("{pool:?} {:?} {:?}", pool.status(), pool.recent_events());
        assert!(!shown.contains(PASSWORD), "{shown}");
        timeout(HANG, pool.close()).await.expect("close ends");
        drop(pool);
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
    assert_eq!(script.open(), 0, "connections are left");
    assert!(script.dials() < MANY_DIALS, "{} dials", script.dials());
}

fn builder(how: u8) -> GuardedPoolBuilder {
    let protocol = if how & 4 > 0 { "?protocol=resp3" } else { "" };
    let url = |last: u8| format!("redis://:{PASSWORD}@10.0.0.{last}:6379/{protocol}");
    let builder = match how & 3 {
        0 => GuardedPool::builder(url(1)).fleet(Fleet::named("f")),
        1 => GuardedPool::builder(url(1)).multiplex(true),
        2 => GuardedPool::sentinel([url(1), url(2)], "m"),
        _ => GuardedPool::cluster([url(1), url(2)]),
    };
    builder.max_connections(4)
}

/// One caller; the error of one that fails says something, and no password.
async fn use_it(pool: &GuardedPool, how: u8) {
    let mut get = redis::cmd("GET");
    get.arg("key");
    let failed = match (how >> 3) & 3 {
        0 => pool.get().await.map_err(words).err(),
        1 => match pool.acquire("a").await {
            Ok(mut lease) => ask(&mut lease, &get).await,
            Err(error) => Some(words(error)),
        },
        2 => ask(&mut pool.shared("a"), &get).await,
        _ => match pool.pubsub("a").await {
            Ok(mut subscriber) => {
                let subscribed = subscriber.subscribe("channel").await.map_err(words).err();
                let _ = timeout(Duration::from_secs(1), subscriber.next()).await;
                subscribed
            }
            Err(error) => Some(words(error)),
        },
    };
    if let Some(failed) = failed {
        assert!(!failed.is_empty() && !failed.contains(PASSWORD), "{failed}");
    }
}

async fn ask(connection: &mut impl ConnectionLike, command: &Cmd) -> Option<String> {
    let reply: Result<Value, _> = connection.req_packed_command(command).await;
    reply.err().map(|error| format!("{error} {error:?}"))
}

fn words(error: Error) -> String {
    format!("{error} {error:?}")
}
