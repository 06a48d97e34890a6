//! A handle on the shared connections, as its users have it.

use std::fmt;
use std::time::Duration;

#[expect(unused_imports, reason = "for the docs")]
use redis::RedisError;
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisFuture, Value};

use super::cluster::router::Router;
use super::handle::Handle;
use super::shared::NodeShared;
use crate::vocabulary::command::{Sharing, replies};
use crate::vocabulary::reply::SHORTEST_RESPONSE_TIMEOUT;
#[expect(unused_imports, reason = "for the docs")]
use crate::{Budget, Rejection};
use crate::{Endpoint, Error};

/// A handle on the pool's shared connections: cheap to make and to clone, for commands that need
/// no connection of their own, which are most.
///
/// Commands of all handles go over a few multiplexed connections
/// ([`shared_lanes`](crate::GuardedPoolBuilder::shared_lanes), one by default) that come from the
/// pool's own budget and stand behind the same gate. A handle keeps the pool open.
///
/// - **Blocking commands** (BLPOP, XREAD BLOCK, WAIT, …) would hold up everybody behind them: they
///   go over an exclusive lease of the same endpoint, with its budget, by themselves.
/// - **Commands that change the connection** are refused before they are sent; use
///   [`acquire`](crate::GuardedPool::acquire). They are, all of them:
///   - WATCH, for which there is [`transaction`](crate::GuardedPool::transaction), and MULTI, EXEC and DISCARD,
///     unless one pipeline has all of a transaction in it;
///   - SELECT of another database than the pool's, AUTH, HELLO with a protocol, RESET, READONLY, READWRITE,
///     ASKING;
///   - CLIENT SETNAME, TRACKING, CACHING, REPLY, NO-EVICT, NO-TOUCH, CAPA and IMPORT-SOURCE;
///   - SUBSCRIBE, UNSUBSCRIBE, PSUBSCRIBE, PUNSUBSCRIBE, SSUBSCRIBE and SUNSUBSCRIBE, for which there is
///     [`pubsub`](crate::GuardedPool::pubsub);
///   - MONITOR, QUIT, SYNC, PSYNC, REPLCONF, and SCRIPT DEBUG.
///
///   `pipe().atomic()`, a pipeline that begins with MULTI and ends with EXEC, and scripts are fine.
/// - **In flight**: an endpoint has at most [`Budget::in_flight`] commands on their way.
/// - **Nothing is sent twice.** When a lane dies, the commands in flight get an error that says that
///   they may or may not have run; the next ones use the lane's replacement.
///
/// **Crates that take a connection of redis-rs** take a handle, if they are generic over [`ConnectionLike`]:
/// [apalis-redis](https://docs.rs/apalis-redis/1.0.0) a queue of jobs (`RedisStorage::new(pool.shared("jobs"))`),
/// [huskarl-redis](https://docs.rs/huskarl-redis/0.3.3) what keeps tokens from being used twice
/// (`RedisJtiUniquenessChecker::builder().connection(pool.shared("tokens"))`). The repository's `tests/interop/` has both as tests
/// on a real server. One that names `MultiplexedConnection` or `ConnectionManager` takes none.
///
/// # Errors
///
/// [`ConnectionLike`] speaks only [`RedisError`]: a refusal, of which nothing was sent, is one of the kind that
/// [`Rejection`] has a table of, and a command that is not for a shared connection one of the kind
/// [`Client`](redis::ErrorKind::Client). [`send`](Self::send) and [`send_pipeline`](Self::send_pipeline)
/// return the [`Error`] itself. A command that was not answered within the response timeout, or whose lane
/// died, is an I/O error, and may have run.
///
/// # Cancel safety
///
/// Dropping the future of a command does not recall it; the others are not disturbed, and its place
/// in the endpoint's `in_flight` is free once its reply has come.
///
/// ```no_run
/// use redis_guard::{AsyncCommands, GuardedPool};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = GuardedPool::builder("redis://127.0.0.1:6379").build()?;
/// let search = pool.shared("search");
/// let (mut hits, mut misses) = (search.clone(), search);
/// // Over one connection, at the same time.
/// let (hits, misses): (Option<u64>, Option<u64>) =
///     tokio::try_join!(hits.get("hits"), misses.get("misses"))?;
/// # let _ = (hits, misses); Ok(()) }
/// ```
#[derive(Clone)]
pub struct SharedConnection {
    kind: Kind,
    pool: Handle,
}

#[derive(Clone)]
enum Kind {
    Node(NodeShared),
    Cluster(Router<NodeShared>),
}

impl SharedConnection {
    pub(super) fn of_node(shared: NodeShared, pool: Handle) -> Self {
        Self { kind: Kind::Node(shared), pool }
    }

    pub(super) fn of_cluster(router: Router<NodeShared>, pool: Handle) -> Self {
        Self { kind: Kind::Cluster(router), pool }
    }

    /// How long the commands of this handle, and of clones made from now on, wait for their replies. Default:
    /// [`response_timeout`](crate::GuardedPoolBuilder::response_timeout). Less than 1 ms is 1 ms. A command that
    /// blocks waits for its own timeout and this one.
    ///
    /// Others go on by theirs on the same lanes: what the server takes long for delays whoever comes after it
    /// there. That is for a lease.
    ///
    /// ```no_run
    /// # use redis_guard::{AsyncCommands, GuardedPool};
    /// # use std::time::Duration;
    /// # async fn example(pool: GuardedPool) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut hints = pool.shared("hints");
    /// hints.set_response_timeout(Duration::from_millis(20)); // better none than a late one
    /// let hint: Option<String> = hints.get("hint").await.unwrap_or_default();
    /// # Ok(()) }
    /// ```
    pub fn set_response_timeout(&mut self, timeout: Duration) {
        let timeout = Some(timeout.max(SHORTEST_RESPONSE_TIMEOUT));
        match &mut self.kind {
            Kind::Node(shared) => shared.set_response_timeout(timeout),
            Kind::Cluster(router) => router.set_response_timeout(timeout),
        }
    }

    /// A copy on the same lanes, for one command that outlives the borrow of this handle.
    pub(crate) fn fork(&mut self) -> Self {
        let kind = match &mut self.kind {
            Kind::Node(shared) => Kind::Node(shared.fork()),
            Kind::Cluster(router) => Kind::Cluster(router.fork()),
        };
        Self { kind, pool: self.pool.clone() }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        match &self.kind {
            Kind::Node(shared) => shared.endpoint(),
            Kind::Cluster(router) => router.endpoint(),
        }
    }

    /// Sends one command; what [`ConnectionLike`] does, with the guard's own error.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] if nothing was sent, as from [`acquire`](crate::GuardedPool::acquire), or because
    /// of [`InFlightLimit`](Rejection::InFlightLimit); [`Error::Inner`] with the server's error, or
    /// an I/O error after which it is not known whether the command ran.
    pub async fn send(&mut self, cmd: &Cmd) -> Result<Value, Error> {
        Ok(self.command(cmd).await?.extract_error()?)
    }

    /// Sends a pipeline; see [`send`](Self::send). The replies are those of its commands, or the one
    /// of EXEC where it is atomic.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub async fn send_pipeline(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, Error> {
        let replies = self.pipeline(pipeline, replies(pipeline)).await?;
        Ok(replies.into_iter().map(Value::extract_error).collect::<Result<_, _>>()?)
    }

    async fn command(&mut self, cmd: &Cmd) -> Result<Value, Error> {
        match &mut self.kind {
            Kind::Node(shared) => shared.command(cmd).await,
            Kind::Cluster(router) => Box::pin(router.command(cmd)).await,
        }
    }

    async fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        replies: (usize, usize),
    ) -> Result<Vec<Value>, Error> {
        match &mut self.kind {
            Kind::Node(shared) => {
                let sharing = Sharing::of_pipeline(pipeline, |cmd| shared.sharing(cmd));
                shared.pipeline(pipeline, replies, sharing).await
            }
            Kind::Cluster(router) => Box::pin(router.pipeline(pipeline, replies)).await,
        }
    }
}

impl ConnectionLike for SharedConnection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move { Ok(self.command(cmd).await?) })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move { Ok(self.pipeline(pipeline, (offset, count)).await?) })
    }

    fn get_db(&self) -> i64 {
        match &self.kind {
            Kind::Node(shared) => shared.node().dialer.db(),
            Kind::Cluster(_) => 0,
        }
    }
}

impl fmt::Debug for SharedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedConnection")
            .field("endpoint", self.endpoint())
            .finish_non_exhaustive()
    }
}
