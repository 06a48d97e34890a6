//! A service: a pool, and callers who keep it busy.
#![allow(dead_code, reason = "every test uses its own part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis_guard::GuardedPool;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::waiting::cmd;

/// Its callers end when it is dropped.
pub(crate) struct Service {
    pub(crate) pool: GuardedPool,
    served: Arc<AtomicU64>,
    _callers: JoinSet<()>,
}

impl Service {
    /// So many callers, each of whom wants a connection all the time and keeps it so long.
    pub(crate) fn of(pool: GuardedPool, callers: usize, hold: Duration) -> Self {
        let served = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (pool, served) = (pool.clone(), Arc::clone(&served));
            tasks.spawn(async move {
                loop {
                    match pool.acquire("work").await {
                        Ok(mut lease) => {
                            if cmd("PING").query_async::<String>(&mut lease).await.is_ok() {
                                served.fetch_add(1, Ordering::Relaxed);
                            }
                            sleep(hold).await;
                        }
                        Err(error) => {
                            sleep(error.retry_after().unwrap_or_default().min(hold)).await;
                        }
                    }
                }
            });
        }
        Self { pool, served, _callers: tasks }
    }

    pub(crate) fn live(&self) -> usize {
        self.pool.status().live
    }

    /// How many calls were answered so far.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

/// Jain's index: 1 where all have the same.
pub(crate) fn jain<'a>(services: impl IntoIterator<Item = &'a Service>) -> f64 {
    let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for service in services {
        let share = f64::from(u32::try_from(service.live()).unwrap());
        (count, sum, squares) = (count + 1.0, sum + share, squares + share * share);
    }
    if squares == 0.0 { 0.0 } else { sum * sum / (squares * count) }
}
