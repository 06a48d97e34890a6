//! What is in hand when the master moves hears of it, and nothing hangs.

use std::time::Duration;

use redis_guard::redis::{RedisResult, Value};
use redis_guard::{AsyncCommands, GuardedPool};
use tokio::time::{Instant, sleep};

use crate::support::SentinelSet;
use crate::waiting::{cmd, executed, id, soon, until};
use crate::{builder, sentinel};

/// How the master goes.
#[derive(Clone, Copy, Debug)]
enum End {
    Command,
    Kill,
    Stop,
}

impl End {
    fn of_master(self, set: &SentinelSet) {
        match self {
            Self::Command => set.fail_over(),
            Self::Kill => set.server(0).crash(),
            Self::Stop => set.server(0).pause(),
        }
    }
}

/// Tries what was not sent again, until it is done.
async fn retried(pool: &GuardedPool) {
    let retrying = async {
        loop {
            match pool.acquire("retry").await {
                Ok(mut lease) => {
                    if lease.set::<_, _, ()>("retried", 1).await.is_ok() {
                        return;
                    }
                }
                Err(error) => assert!(error.is_rejected(), "{error}"),
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    soon("the retry", retrying).await;
}

async fn a_transaction_and_a_wait(end: End) {
    let set = SentinelSet::builder().watchful().start().unwrap();
    let pool = builder(&set).build().unwrap();
    let mut transaction = pool.acquire("transaction").await.unwrap();
    let _: Value = cmd("MULTI").query_async(&mut transaction).await.unwrap();
    let queued: String = cmd("SET key value").query_async(&mut transaction).await.unwrap();
    assert_eq!(queued, "QUEUED");
    let mut waits = pool.acquire("waits").await.unwrap();
    let waiter = id(&mut waits).await;
    let waiting = tokio::spawn(async move {
        let result: RedisResult<Value> = cmd("BLPOP nothing 0").query_async(&mut waits).await;
        (result, Instant::now())
    });
    executed(set.server(0), waiter, "BLPOP").await;
    let mut shared = pool.shared("shared");
    let blocking = tokio::spawn(async move {
        let result: RedisResult<Value> = cmd("BLPOP nothing 0").query_async(&mut shared).await;
        (result, Instant::now())
    });
    while set.server(0).admin().info_u64("blocked_clients") < 2 {
        sleep(Duration::from_millis(1)).await;
    }

    end.of_master(&set);
    let new = set.moved_from(0);
    if !matches!(end, End::Kill) {
        // The pool hears it a moment after all sentinels say it; until then the old one may take writes.
        until("the move", &pool, || sentinel(&pool).moves == 1).await;
    }
    retried(&pool).await;
    let moved = Instant::now();

    for waiting in [waiting, blocking] {
        let (result, heard) = soon("the one that blocks", waiting).await.unwrap();
        let error = result.unwrap_err();
        println!("{end:?}: {error}, {:?} after a write", heard.saturating_duration_since(moved));
        assert!(!error.is_timeout(), "{error}");
        // Otherwise it is the server that closes it.
        if matches!(end, End::Stop) {
            assert!(error.to_string().contains("may or may not have run"), "{error}");
        }
    }
    let error = soon("EXEC", cmd("EXEC").query_async::<Value>(&mut transaction)).await.unwrap_err();
    println!("{end:?}: EXEC: {error}");
    assert!(!error.is_timeout(), "{error}");
    if matches!(end, End::Stop) {
        assert!(error.to_string().contains("nothing was sent"), "{error}");
    }
    assert_eq!(set.server(new).admin().text(&["EXISTS", "key"]), "0");
    assert_eq!(set.server(new).admin().text(&["GET", "retried"]), "1");
    drop(transaction);
    set.server(0).resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_command() {
    a_transaction_and_a_wait(End::Command).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_it_is_killed() {
    a_transaction_and_a_wait(End::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_it_stands_still() {
    a_transaction_and_a_wait(End::Stop).await;
}
