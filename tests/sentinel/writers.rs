//! Callers that write all along, each number once, and what became of it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis_guard::redis::{self, RedisResult};
use redis_guard::{GuardedPool, GuardedPoolBuilder};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::TestServer;
use crate::waiting::until;

/// A set of the numbers that were written.
const KEY: &str = "written";
const PAUSE: Duration = Duration::from_millis(2);

/// One attempt to write one number.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) number: u64,
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    /// The port of the server that has acknowledged it, in its own words.
    pub(crate) by: Result<u16, String>,
}

impl Write {
    pub(crate) fn is_by(&self, server: &TestServer) -> bool {
        self.by == Ok(server.port())
    }
}

/// They end when dropped.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    writes: Arc<Mutex<Vec<Write>>>,
    tasks: JoinSet<()>,
}

impl Writers {
    /// Three over leases, three over shared handles.
    pub(crate) fn start(pool: &GuardedPool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let writes = Arc::new(Mutex::new(Vec::new()));
        let numbers = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for writer in 0..6 {
            let (stop, writes, numbers) = (stop.clone(), writes.clone(), numbers.clone());
            let pool = pool.clone();
            tasks.spawn(async move {
                let mut shared = (writer % 2 == 1).then(|| pool.shared("shared"));
                while !stop.load(Ordering::SeqCst) {
                    let number = numbers.fetch_add(1, Ordering::SeqCst);
                    let begun = Instant::now();
                    let by = match &mut shared {
                        Some(shared) => write(number, shared).await.map_err(|e| e.to_string()),
                        None => match pool.acquire("leases").await {
                            Ok(mut lease) => {
                                write(number, &mut lease).await.map_err(|e| e.to_string())
                            }
                            Err(error) => Err(error.to_string()),
                        },
                    };
                    let write = Write { number, begun, ended: Instant::now(), by };
                    writes.lock().unwrap().push(write);
                    sleep(PAUSE).await;
                }
            });
        }
        Self { stop, writes, tasks }
    }

    pub(crate) fn writes(&self) -> Vec<Write> {
        self.writes.lock().unwrap().clone()
    }

    /// Returns when so many more have been acknowledged by this server.
    pub(crate) async fn more(&self, pool: &GuardedPool, server: &TestServer, count: usize) {
        let by = || self.writes().iter().filter(|write| write.is_by(server)).count();
        let wanted = by() + count;
        until("writes", pool, || by() >= wanted).await;
    }

    pub(crate) async fn stop(mut self) -> Vec<Write> {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.writes()
    }
}

/// Writes the number, and asks in the same transaction who does it.
async fn write(number: u64, to: &mut impl redis::aio::ConnectionLike) -> RedisResult<u16> {
    let mut both = redis::pipe();
    both.atomic().sadd(KEY, number).ignore().cmd("CONFIG").arg("GET").arg("port");
    let (port,): ((String, u16),) = both.query_async(to).await?;
    Ok(port.1)
}

/// What the server has of them.
pub(crate) fn written(server: &TestServer) -> HashSet<u64> {
    let members = server.admin().text(&["SMEMBERS", KEY]);
    members.lines().map(|number| number.parse().unwrap()).collect()
}

/// The acknowledged ones that the server does not have.
pub(crate) fn lost(writes: &[Write], server: &TestServer) -> Vec<Write> {
    let has = written(server);
    let lost = |write: &&Write| write.is_by(server) && !has.contains(&write.number);
    writes.iter().filter(lost).cloned().collect()
}

/// How many dials have failed, looked at all the time.
pub(crate) struct FailedDials {
    seen: Arc<Mutex<Vec<(Instant, u64)>>>,
    _task: JoinSet<()>,
}

impl FailedDials {
    pub(crate) fn of(pool: &GuardedPool) -> Self {
        let (seen, pool) = (Arc::new(Mutex::new(Vec::new())), pool.clone());
        let mut task = JoinSet::new();
        let looked = Arc::clone(&seen);
        task.spawn(async move {
            loop {
                let dials = pool.status().dials;
                let failed = |(outcome, _): &(&&str, &u64)| **outcome != "connected";
                let failed = dials.iter().filter(failed).map(|(_, count)| count).sum();
                looked.lock().unwrap().push((Instant::now(), failed));
                sleep(Duration::from_millis(10)).await;
            }
        });
        Self { seen, _task: task }
    }

    /// The most in any second.
    pub(crate) fn most_in_a_second(&self) -> u64 {
        let seen = self.seen.lock().unwrap();
        let mut most = 0;
        let mut first = 0;
        for &(at, count) in seen.iter() {
            while at - seen[first].0 > Duration::from_secs(1) {
                first += 1;
            }
            most = most.max(count - seen[first].1);
        }
        most
    }
}

/// The defaults of a service, and a name of its own.
pub(crate) fn named(builder: GuardedPoolBuilder, name: &str) -> GuardedPool {
    builder.name(name).build().unwrap()
}
