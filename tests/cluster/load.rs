//! Callers that use a cluster all along, each time on keys of their own, and what became of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis_guard::redis::aio::ConnectionLike;
use redis_guard::redis::{RedisError, RedisResult, Script, pipe};
use redis_guard::{AsyncCommands, Error, GuardedPool};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::Cluster;
use crate::waiting::{soon, until};

const PAUSE: Duration = Duration::from_millis(1);
/// Twice each kind.
const CALLERS: usize = 2 * KINDS.len();

/// How something is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Shared,
    /// A pipeline over two slots.
    Pipeline,
    /// A transaction on two keys of one slot.
    Atomic,
    /// `MSET` and `MGET` over two slots.
    Many,
    Script,
    /// A lease on the node of the key.
    LeaseFor,
    /// A lease that routes, and watches a key.
    Lease,
}

const KINDS: [Kind; 7] = [
    Kind::Shared,
    Kind::Pipeline,
    Kind::Atomic,
    Kind::Many,
    Kind::Script,
    Kind::LeaseFor,
    Kind::Lease,
];

/// One operation.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) kind: Kind,
    /// In the first one's slot.
    pub(crate) key: String,
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    /// How it failed.
    pub(crate) error: Option<String>,
}

impl Operation {
    pub(crate) fn took(&self) -> Duration {
        self.ended - self.begun
    }
}

/// The callers. They end when dropped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<Mutex<Vec<Operation>>>,
    callers: JoinSet<()>,
}

impl Load {
    /// Two callers of each kind. An operation's first key is in the slot of one of `tags`, its second
    /// one in that of one of `others`. A caller panics at a reply that is wrong.
    pub(crate) fn start(pool: &GuardedPool, tags: &[String], others: &[String]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(Mutex::new(Vec::new()));
        let numbers = Arc::new(AtomicU64::new(0));
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (stop, done, numbers) = (stop.clone(), done.clone(), numbers.clone());
            let (pool, tags, others) = (pool.clone(), tags.to_vec(), others.to_vec());
            let kind = KINDS[caller % KINDS.len()];
            callers.spawn(async move {
                let mut rng = fastrand::Rng::with_seed(caller as u64);
                while !stop.load(Ordering::SeqCst) {
                    let number = numbers.fetch_add(1, Ordering::SeqCst);
                    let key = format!("{{{}}}{number}", rng.choice(&tags).unwrap());
                    let other = format!("{{{}}}{number}:other", rng.choice(&others).unwrap());
                    let begun = Instant::now();
                    let told = soon("an operation", once(kind, &pool, &key, &other)).await;
                    let error = told.err().map(|error| error.to_string());
                    let operation = Operation { kind, key, begun, ended: Instant::now(), error };
                    held(&done).push(operation);
                    sleep(PAUSE).await;
                }
            });
        }
        Self { stop, done, callers }
    }

    /// So far.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        held(&self.done).clone()
    }

    /// Returns when so many more have ended well whose first key `is_one`.
    pub(crate) async fn more(
        &self,
        pool: &GuardedPool,
        count: usize,
        is_one: impl Fn(&str) -> bool,
    ) {
        let mut seen = held(&self.done).len();
        let mut left = count;
        until("operations", pool, || {
            let done = held(&self.done);
            let well = |operation: &&Operation| operation.error.is_none() && is_one(&operation.key);
            left = left.saturating_sub(done[seen..].iter().filter(well).count());
            seen = done.len();
            left == 0
        })
        .await;
    }

    /// Everything that became of it.
    pub(crate) async fn stop(mut self) -> Vec<Operation> {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.callers.join_next().await {
            ended.unwrap();
        }
        self.operations()
    }
}

fn held(done: &Mutex<Vec<Operation>>) -> MutexGuard<'_, Vec<Operation>> {
    done.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keys whose slots this node has, one a slot.
pub(crate) fn tags(cluster: &Cluster, node: usize, count: usize) -> Vec<String> {
    let slots = cluster.slots_of(node);
    let step = slots.len() / count;
    slots.into_iter().step_by(step).take(count).map(|slot| cluster.key_in(slot)).collect()
}

/// How many failed, by kind and by words without their numbers.
pub(crate) fn failures<'a>(
    operations: impl IntoIterator<Item = &'a Operation>,
) -> BTreeMap<String, usize> {
    let mut failures = BTreeMap::new();
    for Operation { kind, error, .. } in operations {
        if let Some(error) = error {
            let words = error.split(|letter: char| letter.is_ascii_digit());
            let words = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join("#");
            *failures.entry(format!("{kind:?}: {words}")).or_default() += 1;
        }
    }
    failures
}

/// Nobody's.
pub(crate) fn none() -> BTreeMap<String, usize> {
    BTreeMap::new()
}

/// Something that is done once to each key, and read back. What is acknowledged may be lost when a replica
/// takes over, and then it is not there; it is never done twice, and never somebody else's.
async fn once(kind: Kind, pool: &GuardedPool, key: &str, other: &str) -> Result<(), Error> {
    match kind {
        Kind::Shared => Ok(count(&mut pool.shared("shared"), key).await?),
        Kind::LeaseFor => Ok(count(&mut pool.acquire_for("leases", key).await?, key).await?),
        Kind::Lease => {
            let mut lease = pool.acquire("leases").await?;
            count(&mut lease, key).await?;
            Ok(watched(&mut lease, other).await?)
        }
        Kind::Pipeline => {
            let mut handle = pool.shared("shared");
            let mut pipeline = pipe();
            pipeline.incr(key, 1).cmd("ECHO").arg(key).incr(other, 1).get(key);
            let told: (u64, String, u64, Option<u64>) = pipeline.query_async(&mut handle).await?;
            assert_eq!(told, (1, key.to_owned(), 1, told.3.and(Some(1))));
            Ok(())
        }
        Kind::Atomic => {
            let mut both = pipe();
            let second = format!("{key}:second");
            both.atomic().incr(key, 1).incr(second, 1).get(key);
            let told: (u64, u64, u64) = both.query_async(&mut pool.shared("shared")).await?;
            assert_eq!(told, (1, 1, 1), "{key}");
            Ok(())
        }
        Kind::Many => {
            let mut handle = pool.shared("shared");
            let () = handle.mset(&[(key, key), (other, other)]).await?;
            let told: Vec<Option<String>> = handle.mget(&[other, key]).await?;
            let is_own =
                |(told, key): (&Option<String>, &str)| told.as_deref().is_none_or(|t| t == key);
            assert!(
                told.len() == 2 && told.iter().zip([other, key]).all(is_own),
                "{key}: {told:?}"
            );
            Ok(())
        }
        Kind::Script => {
            let script = Script::new("return {redis.call('INCR', KEYS[1]), KEYS[1]}");
            let mut handle = pool.shared("shared");
            let told: (u64, String) = script.key(key).invoke_async(&mut handle).await?;
            assert_eq!(told, (1, key.to_owned()));
            Ok(())
        }
    }
}

async fn count(connection: &mut (impl ConnectionLike + Send + Sync), key: &str) -> RedisResult<()> {
    assert_eq!(connection.incr::<_, _, u64>(key, 1).await?, 1, "{key}");
    let told: Option<u64> = connection.get(key).await?;
    assert!(told.is_none_or(|told| told == 1), "{key}: {told:?}");
    Ok(())
}

/// A transaction step by step. One whose slot moves meanwhile is begun again.
async fn watched(lease: &mut (impl ConnectionLike + Send + Sync), key: &str) -> RedisResult<()> {
    let words = |line: &str| crate::waiting::cmd(line);
    loop {
        let () = words("WATCH").arg(key).query_async(lease).await?;
        let () = words("MULTI").query_async(lease).await?;
        let queued = words("INCR").arg(key).query_async::<String>(lease).await;
        let done = match queued {
            Ok(_) => words("EXEC").query_async::<(u64,)>(lease).await,
            Err(error) => {
                let _ = words("DISCARD").query_async::<()>(lease).await;
                Err::<_, RedisError>(error)
            }
        };
        match done {
            Ok((counted,)) => {
                assert_eq!(counted, 1, "{key}");
                return Ok(());
            }
            Err(error) if matches!(error.code(), Some("MOVED" | "ASK")) => {}
            Err(error) => return Err(error),
        }
    }
}
