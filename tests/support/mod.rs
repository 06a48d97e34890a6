//! What the integration tests share.
#![allow(dead_code, reason = "every test uses its own part of the support code")]
#![allow(unused_imports, reason = "every test uses its own part of the support code")]

pub(crate) mod chromium;
pub(crate) mod cluster;
pub(crate) mod crowd;
pub(crate) mod examples;
pub(crate) mod log;
pub(crate) mod name;
pub(crate) mod replication;
pub(crate) mod sentinel;
pub(crate) mod server;
#[cfg(target_os = "linux")]
pub(crate) mod sockets;
#[cfg(feature = "tls-rustls")]
pub(crate) mod tls_proxy;
pub(crate) mod vendor;

use std::collections::BTreeMap;
use std::time::Duration;

use redis_guard::{Backoff, Error, GuardedConnection, GuardedPool, GuardedPoolBuilder, redis};
use tokio::time::{sleep, timeout};

pub(crate) use self::cluster::{Cluster, Move};
pub(crate) use self::crowd::{Crowd, Storm};
pub(crate) use self::name::Name;
pub(crate) use self::replication::pair;
pub(crate) use self::sentinel::{SentinelSet, SentinelSetBuilder, Switch, Switches};
pub(crate) use self::server::{
    Auth, LOADS_SLOWLY, Maker, Occupants, Resp, SEVEN, TestServer, Transport, lacks, lacks_tls,
    program, skip,
};
pub(crate) use self::vendor::{VendorScript, VendorServer};

/// Far above anything a test waits for: it ends a test that would otherwise hang.
pub(crate) const HANG: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(1);

/// A pool whose timeouts only end a hang: a busy machine is slow to dial and slow to answer, and a
/// test that is not about a timeout has nothing to say about that. What is closed stays so until
/// somebody wants another, so that dials and clients can be counted.
pub(crate) fn unhurried(url: impl redis::IntoConnectionInfo) -> GuardedPoolBuilder {
    let builder = GuardedPool::builder(url).acquire_timeout(HANG).connect_timeout(HANG);
    builder.response_timeout(HANG).min_idle(0)
}

/// The same, which backs off for no more than a millisecond, so that a test can see many dials.
pub(crate) fn impatient(url: &str) -> GuardedPoolBuilder {
    unhurried(url).backoff(Backoff::equal_jitter(TICK, TICK))
}

/// How many dials have ended so, by outcome; only the outcomes that occurred.
pub(crate) fn dials(pool: &GuardedPool) -> BTreeMap<&'static str, u64> {
    pool.status().dials.into_iter().filter(|(_, count)| *count > 0).collect()
}

/// Keeps asking for a connection until `count` dials have ended. Returns what the callers were
/// told.
pub(crate) async fn ask_until_dialed(pool: &GuardedPool, count: u64) -> Vec<Error> {
    let mut told = Vec::new();
    let asking = async {
        loop {
            told.extend(pool.acquire("test").await.err());
            sleep(TICK).await;
        }
    };
    let counting = async {
        while dials(pool).values().sum::<u64>() < count {
            sleep(TICK).await;
        }
    };
    let both = async {
        tokio::select! {
            () = asking => {}
            () = counting => {}
        }
    };
    let ended = timeout(HANG, both).await;
    ended.unwrap_or_else(|_| panic!("{count} dials should have ended, but: {:?}", pool.status()));
    told
}

/// Keeps asking for a connection until there is one.
pub(crate) async fn ask_until_served(pool: &GuardedPool) -> GuardedConnection {
    let asking = async {
        loop {
            match pool.acquire("test").await {
                Ok(connection) => break connection,
                Err(_) => sleep(TICK).await,
            }
        }
    };
    let served = timeout(HANG, asking).await;
    served.unwrap_or_else(|_| panic!("nobody was served: {:?}", pool.status()))
}

/// Returns when the server has noticed that its clients have closed their connections: until
/// then it counts them, and [`TestServer::fill`] would leave their slots out.
pub(crate) async fn until_alone(server: &TestServer) {
    let alone = async {
        while server.admin().used_slots() > 1 {
            sleep(TICK).await;
        }
    };
    let left = timeout(HANG, alone).await;
    left.unwrap_or_else(|_| panic!("still connected: {:?}", server.admin().client_list()));
}
