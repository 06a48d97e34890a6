//! Transactions on watched keys: what is read decides what is written, and nothing is written if somebody else
//! was faster.

use std::panic::Location;
use std::time::Duration;

use redis::{ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, ToRedisArgs};

use super::guarded_connection::GuardedConnection;
use super::guarded_pool::GuardedPool;
use crate::{Backoff, Endpoint, Error};

/// Of those who contend for a key one succeeds in each round: of eight who did not even pause, one in seventy
/// would still have failed in this many, and with the pauses next to none does. What fails more often is no
/// transaction any more but a queue, and wants a script.
const ATTEMPTS: u32 = 32;

/// The pause before another attempt, longer the more contend: some 2 s in all, the patience of an interactive
/// caller. Full jitter, which does the least work where callers contend with each other.
const PAUSE: Backoff = Backoff::full_jitter(Duration::from_millis(1), Duration::from_millis(128));

impl GuardedPool {
    /// Runs a transaction on watched keys: `f` reads on the connection, fills the pipeline, which is atomic, and
    /// runs it. The pipeline is executed only if none of `keys` has changed since they were watched; otherwise
    /// all of it is done again, on what is there then.
    ///
    /// ```no_run
    /// # use redis_guard::{AsyncCommands, GuardedPool};
    /// # async fn example(pool: GuardedPool) -> Result<(), Box<dyn std::error::Error>> {
    /// let left: Option<i64> = pool
    ///     .transaction("checkout", &["stock"], async |conn, pipe| {
    ///         let stock: i64 = conn.get("stock").await?;
    ///         if stock == 0 {
    ///             return Ok(Some(None)); // ends it: nothing is written
    ///         }
    ///         // `None` where somebody has changed the stock meanwhile: then all of this runs again.
    ///         let done: Option<(i64,)> = pipe.decr("stock", 1).query_async(conn).await?;
    ///         Ok(done.map(|(left,)| Some(left)))
    ///     })
    ///     .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// **`f` may run several times**, up to 32, with pauses of up to 128 ms, 2 s in all, between: of those who contend for a
    /// key one succeeds each time. It ends the transaction with `Some`, and asks for another attempt with `None`,
    /// which is what an atomic pipeline replies as an `Option` where a key has changed. Each attempt has a lease
    /// of `endpoint`, with a connection of its own, which is given back in between.
    ///
    /// **To be `Send`**, as a spawned task or a handler of axum has to be, it takes what it captures along and borrows
    /// nothing, for want of words in today's Rust: `async move |conn, pipe| …`, on a `String` and not a `&str`.
    ///
    /// **Nothing is left watched**, however it ends: what `f` leaves behind is undone before anybody else has the
    /// connection, or that is closed.
    ///
    /// On a [cluster](Self::cluster) all keys have to be in one slot, those that `f` uses too. Attempts that meet a
    /// slot on its way to another node are made again.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire); [`Error::Inner`] with the error of `f`, or of WATCH; of the kind
    /// [`Client`](ErrorKind::Client) if no key is given, or if the keys have changed in all 32 attempts; on a
    /// cluster CROSSSLOT, before anything is sent.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future undoes the watch. If the pipeline was on its way, it may or may not have been executed.
    #[track_caller]
    pub fn transaction<E, K, T, F>(
        &self,
        endpoint: E,
        keys: &[K],
        f: F,
    ) -> impl Future<Output = Result<T, Error>> + use<E, K, T, F>
    where
        E: Into<Endpoint>,
        K: ToRedisArgs,
        F: AsyncFnMut(&mut GuardedConnection, &mut Pipeline) -> RedisResult<Option<T>>,
    {
        let keys = keys.iter().flat_map(ToRedisArgs::to_redis_args).collect();
        transact(self.clone(), endpoint.into(), keys, f, Location::caller())
    }
}

/// Holds no reference of its own over an await, for the compiler would not see then that all of it is `Send`.
async fn transact<T>(
    pool: GuardedPool,
    endpoint: Endpoint,
    keys: Vec<Vec<u8>>,
    mut f: impl AsyncFnMut(&mut GuardedConnection, &mut Pipeline) -> RedisResult<Option<T>>,
    location: &'static Location<'static>,
) -> Result<T, Error> {
    let (mut rng, mut pause) = (fastrand::Rng::new(), Duration::ZERO);
    for attempt in 1..=ATTEMPTS {
        let done = match watching(pool.clone(), endpoint.clone(), keys.clone(), location).await {
            Ok(mut lease) => {
                let mut pipe = redis::pipe();
                pipe.atomic();
                // The lease ends here: whoever waits comes first, and what is left of it is undone.
                f(&mut lease, &mut pipe).await.map_err(Error::from)
            }
            Err(error) => Err(error),
        };
        match done {
            Ok(Some(done)) => return Ok(done),
            Ok(None) => {}
            Err(Error::Inner(error)) if has_moved(&error) => {}
            Err(error) => return Err(error),
        }
        if attempt < ATTEMPTS {
            pause = PAUSE.delay(attempt, pause, &mut rng);
            tokio::time::sleep(pause).await;
        }
    }
    Err(given_up().into())
}

/// A lease with a connection of its own, on which the keys are watched.
async fn watching(
    pool: GuardedPool,
    endpoint: Endpoint,
    keys: Vec<Vec<u8>>,
    location: &'static Location<'static>,
) -> Result<GuardedConnection, Error> {
    let Some(first) = keys.first() else { return Err(no_key().into()) };
    let mut lease = pool.acquire_for_at(endpoint, first.clone(), location).await?;
    lease.make_exclusive().await?;
    lease.command(redis::cmd("WATCH").arg(&keys)).await?.extract_error()?;
    Ok(lease)
}

/// Whether the keys' slot is on its way, or at another node by now: nothing was executed.
fn has_moved(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, Moved, TryAgain};
    let errors = error.clone().into_server_errors();
    errors.is_some_and(|errors| {
        errors.iter().any(|(_, error)| matches!(error.kind(), Some(Moved | Ask | TryAgain)))
    })
}

fn no_key() -> RedisError {
    let why = "without one there is nothing to wait for: an atomic pipeline does as well";
    (ErrorKind::Client, "a transaction watches at least one key", why.to_owned()).into()
}

fn given_up() -> RedisError {
    let why = format!(
        "others have changed its keys in each of {ATTEMPTS} attempts; a script would do it in one"
    );
    (ErrorKind::Client, "the transaction was not executed", why).into()
}
