//! A lease, as its holder has it.

use std::fmt;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisFuture, Value};

use super::cluster::router::Router;
use super::handle::KeepOpen;
use super::lease::NodeLease;
use super::multiplexed::Multiplexed;
use crate::Error;
use crate::vocabulary::command::{Sharing, replies};
use crate::vocabulary::reply::SHORTEST_RESPONSE_TIMEOUT;

/// A lease of one connection, returned when it is dropped.
///
/// It implements [`ConnectionLike`], so everything in [`redis::AsyncCommands`], pipelines and scripts
/// work on it. It is neither `Clone` nor does it dereference to something that is: a copy would
/// outlive the lease and escape the budget. So redis-rs's `transaction_async`, which clones, is
/// [`GuardedPool::transaction`](crate::GuardedPool::transaction) here.
///
/// **Timeouts.** A command that is not answered within
/// [`response_timeout`](crate::GuardedPoolBuilder::response_timeout), or the lease's
/// [own](Self::set_response_timeout), fails with an I/O error of the kind `TimedOut`. Commands that block by design (BLPOP, XREAD BLOCK, WAIT, …) have their own timeout
/// besides; one that blocks for ever ends with the
/// [link](crate::GuardedPoolBuilder::link_timeout).
///
/// **What a lease leaves behind.** A connection on which keys are still watched, a transaction is
/// open, or the session was changed (SELECT, AUTH, HELLO, CLIENT SETNAME, …) is brought back to
/// where the dial left it, with RESET (Redis 6.2 and later), in the background, before anybody else
/// gets it. One that cannot be (SUBSCRIBE, MONITOR, CLIENT REPLY, an abandoned blocking command) is
/// closed.
///
/// # Cancel safety
///
/// Dropping the future of a command does not recall the command: the server may run it. The
/// connection stays usable; it is lent again once the reply has come.
///
/// A command that blocks is the exception: given up, by a drop or a timeout, it might still take an item
/// that nobody hears of. Its connection is closed at once, and whatever is sent on the lease after that
/// fails, unsent, with an I/O error of the kind `BrokenPipe` that says so: acquire another lease.
///
/// **Where the pool [multiplexes](crate::GuardedPoolBuilder::multiplex)** a lease has no connection until it needs
/// one: its commands go over the pool's shared lanes. It takes one, from its endpoint's budget, before the first
/// command that changes a connection or tells of it (WATCH, MULTI without its EXEC in one pipeline, SELECT, CLIENT,
/// HELLO, SUBSCRIBE, MONITOR, …),
/// and everything goes over that until the drop. A command that blocks gets one for itself, and the lease goes on
/// if that is given up. What was sent before, commands that were given up included, is answered first; a
/// connection that cannot be had is an error of the command that needed it, and nothing was sent. Such a lease
/// keeps the pool open, and without a connection it fails once the pool is [closed](crate::GuardedPool::close).
///
/// ```no_run
/// use redis_guard::{AsyncCommands, GuardedPool};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = GuardedPool::builder("redis://127.0.0.1:6379").build()?;
/// let mut worker = pool.acquire("worker").await?;
/// let job: Option<(String, String)> = worker.blpop("jobs", 5.0).await?;
/// drop(worker); // returned
/// # let _ = job; Ok(()) }
/// ```
pub struct GuardedConnection(Kind);

enum Kind {
    Node(NodeLease),
    Multiplexed { lease: Multiplexed, _pool: KeepOpen },
    Cluster(Router<NodeLease>),
    MultiplexedCluster { router: Router<Multiplexed>, _pool: KeepOpen },
}

impl GuardedConnection {
    pub(super) fn of_node(lease: NodeLease) -> Self {
        Self(Kind::Node(lease))
    }

    /// Takes its connections when it needs them.
    pub(super) fn of_cluster(router: Router<NodeLease>) -> Self {
        Self(Kind::Cluster(router))
    }

    pub(super) fn of_multiplexed(lease: Multiplexed, pool: KeepOpen) -> Self {
        Self(Kind::Multiplexed { lease, _pool: pool })
    }

    pub(super) fn of_multiplexed_cluster(router: Router<Multiplexed>, pool: KeepOpen) -> Self {
        Self(Kind::MultiplexedCluster { router, _pool: pool })
    }

    /// Takes a connection of its own, from the endpoint's budget, for those who know that they need one; it is
    /// given back when the lease is dropped. One that has it already, as every lease of a pool that does not
    /// [multiplex](crate::GuardedPoolBuilder::multiplex), is left as it is. On a cluster it is one of each node that
    /// the lease has used or will use.
    ///
    /// # Errors
    ///
    /// [`Error::Rejected`] as from [`acquire`](crate::GuardedPool::acquire); [`Error::Inner`] with an I/O error of
    /// the kind `TimedOut` if what the lease sent before is not answered within the response timeout. The lease
    /// stays as it was.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the lease as it was.
    pub async fn make_exclusive(&mut self) -> Result<(), Error> {
        match &mut self.0 {
            Kind::Node(_) | Kind::Cluster(_) => Ok(()),
            Kind::Multiplexed { lease, .. } => lease.make_exclusive().await,
            Kind::MultiplexedCluster { router, .. } => router.make_exclusive().await,
        }
    }

    /// Whether it has a connection of its own, until it is dropped; on a cluster, one of each node that it uses.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        match &self.0 {
            Kind::Node(_) | Kind::Cluster(_) => true,
            Kind::Multiplexed { lease, .. } => lease.is_exclusive(),
            Kind::MultiplexedCluster { router, .. } => router.is_exclusive(),
        }
    }

    /// How long the commands of this lease wait for their replies. Default:
    /// [`response_timeout`](crate::GuardedPoolBuilder::response_timeout). Less than 1 ms is 1 ms. A command that
    /// blocks waits for its own timeout and this one. The next lease has the pool's again.
    ///
    /// ```no_run
    /// # use redis_guard::{GuardedPool, redis};
    /// # use std::time::Duration;
    /// # async fn example(pool: GuardedPool) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut conn = pool.acquire("report").await?;
    /// conn.set_response_timeout(Duration::from_secs(30));
    /// let top: Vec<String> = redis::cmd("SORT").arg("sales").arg("DESC").query_async(&mut conn).await?;
    /// # Ok(()) }
    /// ```
    pub fn set_response_timeout(&mut self, timeout: Duration) {
        let timeout = Some(timeout.max(SHORTEST_RESPONSE_TIMEOUT));
        match &mut self.0 {
            Kind::Node(lease) => lease.set_response_timeout(timeout),
            Kind::Multiplexed { lease, .. } => lease.set_response_timeout(timeout),
            Kind::Cluster(router) => router.set_response_timeout(timeout),
            Kind::MultiplexedCluster { router, .. } => router.set_response_timeout(timeout),
        }
    }

    /// Its connection is known to be dead.
    #[cfg(test)]
    pub(crate) fn is_dead(&self) -> bool {
        matches!(&self.0, Kind::Node(lease) if lease.is_dead())
    }

    /// Sends one command; the reply as it is, an error of the server's too.
    pub(crate) async fn command(&mut self, cmd: &Cmd) -> Result<Value, Error> {
        match &mut self.0 {
            Kind::Node(lease) => Ok(lease.command(cmd).await?),
            Kind::Multiplexed { lease, .. } => lease.command(cmd).await,
            Kind::Cluster(router) => Box::pin(router.command(cmd)).await,
            Kind::MultiplexedCluster { router, .. } => Box::pin(router.command(cmd)).await,
        }
    }

    async fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        replies: (usize, usize),
    ) -> Result<Vec<Value>, Error> {
        match &mut self.0 {
            Kind::Node(lease) => Ok(lease.pipeline(pipeline, replies).await?),
            Kind::Multiplexed { lease, .. } => {
                let sharing = Sharing::of_pipeline(pipeline, Sharing::of_lease);
                lease.pipeline(pipeline, replies, sharing).await
            }
            Kind::Cluster(router) => Box::pin(router.pipeline(pipeline, replies)).await,
            Kind::MultiplexedCluster { router, .. } => {
                Box::pin(router.pipeline(pipeline, replies)).await
            }
        }
    }

    /// Sends a pipeline; the replies are those of its commands, or the one of EXEC where it is atomic.
    pub(crate) async fn send_pipeline(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, Error> {
        let replies = self.pipeline(pipeline, replies(pipeline)).await?;
        Ok(replies.into_iter().map(Value::extract_error).collect::<Result<_, _>>()?)
    }
}

impl ConnectionLike for GuardedConnection {
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
        match &self.0 {
            Kind::Node(lease) => lease.node().dialer.db(),
            Kind::Multiplexed { lease, .. } => lease.node().dialer.db(),
            Kind::Cluster(_) | Kind::MultiplexedCluster { .. } => 0,
        }
    }
}

impl fmt::Debug for GuardedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("GuardedConnection");
        match &self.0 {
            Kind::Node(lease) => f.field("id", &lease.id()),
            Kind::Multiplexed { lease, .. } => f.field("endpoint", lease.endpoint()),
            Kind::Cluster(router) => f.field("endpoint", router.endpoint()),
            Kind::MultiplexedCluster { router, .. } => f.field("endpoint", router.endpoint()),
        };
        f.finish_non_exhaustive()
    }
}
