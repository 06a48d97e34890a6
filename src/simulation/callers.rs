//! Callers: each does one operation after the other, of every kind, and leaves some at any of their awaits.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use fastrand::Rng;
use redis::aio::ConnectionLike;
use redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, cmd, pipe};
use tokio::time::{Instant, sleep};

use super::plan::{Plan, Timeouts};
use super::shape::Kind;
use super::world::{Phase, World};
use crate::{Error, GuardedPool, PubSubEvent, Rejection};

/// How much later than it was promised something may come: a timer counts whole milliseconds.
const SLACK: Duration = Duration::from_millis(5);

/// The pools of a run, each of which may be closed and replaced at any time.
pub(super) struct Pools {
    pub(super) open: Mutex<Vec<GuardedPool>>,
    pub(super) plan: Plan,
    pub(super) stopped: Mutex<bool>,
}

impl Pools {
    pub(super) fn pick(&self, rng: &mut Rng) -> GuardedPool {
        let open = self.open.lock().expect("nobody panics with it");
        open[rng.usize(..open.len())].clone()
    }

    pub(super) fn are_stopped(&self) -> bool {
        *self.stopped.lock().expect("nobody panics with it")
    }
}

/// One caller.
pub(super) struct Caller {
    pub(super) world: Arc<World>,
    pub(super) pools: Arc<Pools>,
    pub(super) rng: Rng,
    pub(super) number: usize,
    pub(super) operation: u64,
}

/// How an operation ended that was not left.
type Ended = Result<(), Trouble>;

/// What an operation met.
enum Trouble {
    Refused(Rejection),
    Failed(RedisError),
}

impl From<RedisError> for Trouble {
    fn from(error: RedisError) -> Self {
        Self::Failed(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Rejected(rejection) => Self::Refused(rejection),
            Error::Inner(error) => Self::Failed(error),
        }
    }
}

/// When an operation is left.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    polls: u32,
    /// Only when it is woken after these, so that what it was woken for is there and not taken.
    woken: bool,
}

/// Polls the future so often, and drops it then; `None` if it was not ready by then.
async fn left_after<T>(leaving: Option<Leaving>, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut polls = 0;
    poll_fn(|cx| {
        if leaving.is_some_and(|leaving| leaving.woken && polls > leaving.polls) {
            return Poll::Ready(None);
        }
        if let Poll::Ready(result) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(result));
        }
        polls += 1;
        match leaving {
            Some(leaving) if !leaving.woken && polls > leaving.polls => Poll::Ready(None),
            _ => Poll::Pending,
        }
    })
    .await
}

impl Caller {
    pub(super) async fn run(mut self) {
        while !self.pools.are_stopped() {
            // Bursts, and lulls in which what is idle is given up.
            let think = match self.rng.u32(..100) {
                0..60 => self.rng.u64(..3_000),
                60..97 => self.rng.u64(..40_000),
                _ => self.rng.u64(..2_500_000),
            };
            // What is learned then is learned in time, and not by more operations.
            let think = match self.world.phase() {
                Phase::Recovery => (think * 40).min(2_000_000),
                _ => think,
            };
            sleep(Duration::from_micros(think)).await;
            self.operate().await;
        }
    }

    async fn operate(&mut self) {
        self.operation += 1;
        let phase = self.world.phase();
        let strict = phase == Phase::Proof;
        let calm = strict || phase == Phase::Calm;
        let pool = self.pools.pick(&mut self.rng);
        let leaves = !calm && self.rng.u32(..3) == 0;
        let leaving = leaves.then(|| Leaving { polls: self.polls(), woken: self.rng.bool() });
        let what = if calm { self.rng.u32(..2) } else { self.rng.u32(2..100) };
        let (world, who) = (Arc::clone(&self.world), self.who());
        world.step(format_args!("{who} begins {what}"));
        let ended = {
            // Boxed: it has room for whichever operation is largest.
            let operation = Box::pin(self.one(&pool, what));
            left_after(leaving, operation).await
        };
        match ended {
            None => world.event("left", format_args!("{who} {leaving:?}")),
            Some(Ok(())) => world.event("done", format_args!("{who}")),
            Some(Err(Trouble::Refused(rejection))) => {
                world.event(rejection.reason(), format_args!("{who}"));
                if strict && !matches!(rejection, Rejection::QueueFull { .. } | Rejection::Closed) {
                    world.fail(format!("{who} was refused where nothing is wrong: {rejection}"));
                }
            }
            Some(Err(Trouble::Failed(error))) => {
                let kind = (error.kind(), error.code().unwrap_or("-").to_owned());
                world.event("failed", format_args!("{who} {kind:?}"));
                if strict {
                    world.fail(format!("{who} failed where nothing is wrong: {error}"));
                }
            }
        }
    }

    /// Most operations wait for a connection first.
    fn polls(&mut self) -> u32 {
        let most = if self.rng.bool() { 3 } else { 14 };
        self.rng.u32(..most)
    }

    fn who(&self) -> String {
        format!("c{}o{}", self.number, self.operation)
    }

    /// A key of this operation's; all of one `tag` are in one slot.
    fn key(&mut self, tag: u32) -> String {
        format!("{{{tag}}}{}n{}", self.who(), self.rng.u32(..1_000_000))
    }

    fn tag(&mut self) -> u32 {
        self.rng.u32(..64)
    }

    async fn one(&mut self, pool: &GuardedPool, what: u32) -> Ended {
        match what {
            0 => {
                let (mut lease, tag) = self.acquire(pool).await?;
                self.get(&mut lease, tag).await
            }
            1 => {
                let mut shared = pool.shared(self.endpoint());
                let tag = self.tag();
                self.get(&mut shared, tag).await
            }
            2..45 => self.lease(pool).await,
            45..75 => self.share(pool).await,
            75..82 => {
                let (endpoint, key) = (self.endpoint(), self.tag().to_string());
                let tag = key.parse().unwrap_or_default();
                match self.pools.plan.kind {
                    // Of which node it is, nobody can say.
                    Kind::Cluster => {
                        let _lease = pool.acquire_for(endpoint, key).await?;
                        Ok(())
                    }
                    _ => self.get(&mut pool.try_acquire(endpoint)?, tag).await,
                }
            }
            82..89 => self.listen(pool).await,
            89..91 => {
                pool.health().await?;
                Ok(())
            }
            91..93 => {
                let most = self.pools.plan.max_connections;
                pool.warm_up(self.rng.usize(1..=most)).await?;
                Ok(())
            }
            93..95 => self.publish(pool).await,
            _ => {
                self.look(pool);
                Ok(())
            }
        }
    }

    fn endpoint(&mut self) -> &'static str {
        self.rng.choice(["a", "b", "c"]).expect("there are some")
    }

    /// A lease, and the tag of keys that its server has.
    async fn acquire(
        &mut self,
        pool: &GuardedPool,
    ) -> Result<(crate::GuardedConnection, u32), Trouble> {
        let (endpoint, tag) = (self.endpoint(), self.tag());
        let asked = Instant::now();
        let lease = match self.pools.plan.kind {
            Kind::Cluster => pool.acquire_for(endpoint, tag.to_string()).await,
            _ => pool.acquire(endpoint).await,
        };
        let Timeouts { acquire, .. } = self.pools.plan.timeouts;
        // A cluster is asked first who its nodes are.
        let most = if self.pools.plan.kind == Kind::Cluster { acquire * 2 } else { acquire };
        self.check_time("acquire", asked, most);
        let lease = lease?;
        if lease.is_dead() {
            self.world.fail(format!("{} was lent a connection that is dead", self.who()));
        }
        Ok((lease, tag))
    }

    fn check_time(&self, what: &str, since: Instant, most: Duration) {
        let took = since.elapsed();
        if took > most + SLACK {
            self.world.fail(format!("{}: {what} took {took:?}, more than {most:?}", self.who()));
        }
    }

    /// The longest that a command may take, which blocks for so long.
    fn longest(&self, blocks: Duration) -> Duration {
        let Plan { kind, multiplex, timeouts: Timeouts { acquire, response }, .. } =
            self.pools.plan;
        let once = acquire + response + blocks;
        match kind {
            // Redirections, each of which may need a connection.
            Kind::Cluster => once * 8,
            // What was sent on a lane is answered first.
            _ if multiplex => once + response,
            _ => once,
        }
    }

    async fn lease(&mut self, pool: &GuardedPool) -> Ended {
        let (mut lease, tag) = self.acquire(pool).await?;
        for _ in 0..self.rng.u32(0..4) {
            match self.rng.u32(..12) {
                0..4 => self.get(&mut lease, tag).await?,
                4..6 => self.set(&mut lease, tag).await?,
                6 => self.several(&mut lease, tag, false).await?,
                7 => self.several(&mut lease, tag, true).await?,
                8 => self.transaction(&mut lease, tag).await?,
                9 => self.block(&mut lease, tag).await?,
                _ => {
                    let hold = match self.rng.u32(..10) {
                        0 => self.rng.u64(..1_500),
                        _ => self.rng.u64(..20),
                    };
                    sleep(Duration::from_millis(hold)).await;
                }
            }
        }
        Ok(())
    }

    async fn share(&mut self, pool: &GuardedPool) -> Ended {
        let mut shared = pool.shared(self.endpoint());
        let tag = self.tag();
        match self.rng.u32(..8) {
            0 => self.several(&mut shared, tag, false).await,
            1 => self.several(&mut shared, tag, true).await,
            2 => self.set(&mut shared, tag).await,
            3 => {
                let (mut other, key) = (shared.clone(), self.key(tag));
                let more = async { cmd("GET").arg(&key).query_async::<String>(&mut other).await };
                let (one, more) = futures_util::join!(self.get(&mut shared, tag), more);
                self.compare(&key, more?);
                one
            }
            _ => self.get(&mut shared, tag).await,
        }
    }

    /// Sends a command, within the time that it may take.
    async fn ask<T: FromRedisValue>(
        &mut self,
        connection: &mut impl ConnectionLike,
        command: &Cmd,
        blocks: Duration,
    ) -> RedisResult<T> {
        let asked = Instant::now();
        let reply = command.query_async(connection).await;
        self.check_time("a command", asked, self.longest(blocks));
        reply
    }

    async fn ask_several<T: FromRedisValue>(
        &mut self,
        connection: &mut impl ConnectionLike,
        commands: &Pipeline,
    ) -> RedisResult<T> {
        let asked = Instant::now();
        let reply = commands.query_async(connection).await;
        self.check_time("a pipeline", asked, self.longest(Duration::ZERO));
        reply
    }

    fn compare(&self, key: &str, reply: impl Into<Option<String>>) {
        let reply = reply.into();
        if reply.as_deref() != Some(key) {
            self.world.fail(format!("{} asked {key}, and was answered {reply:?}", self.who()));
        }
    }

    async fn get(&mut self, connection: &mut impl ConnectionLike, tag: u32) -> Ended {
        let key = self.key(tag);
        let reply: String = self.ask(connection, cmd("GET").arg(&key), Duration::ZERO).await?;
        self.compare(&key, reply);
        Ok(())
    }

    async fn set(&mut self, connection: &mut impl ConnectionLike, tag: u32) -> Ended {
        let key = self.key(tag);
        let command = cmd("GETSET").arg(&key).arg("v").clone();
        let reply: String = self.ask(connection, &command, Duration::ZERO).await?;
        self.compare(&key, reply);
        Ok(())
    }

    async fn several(
        &mut self,
        connection: &mut impl ConnectionLike,
        tag: u32,
        atomic: bool,
    ) -> Ended {
        let keys = [self.key(tag), self.key(tag), self.key(tag)];
        let mut commands = pipe();
        if atomic {
            commands.atomic();
        }
        for key in &keys {
            commands.cmd("GET").arg(key);
        }
        let replies: Vec<String> = self.ask_several(connection, &commands).await?;
        if replies != keys {
            self.world.fail(format!("{} asked {keys:?}, and was answered {replies:?}", self.who()));
        }
        Ok(())
    }

    async fn transaction(&mut self, connection: &mut impl ConnectionLike, tag: u32) -> Ended {
        let now = Duration::ZERO;
        let (watched, key) = (self.key(tag), self.key(tag));
        if self.rng.bool() {
            let _: () = self.ask(connection, cmd("WATCH").arg(&watched), now).await?;
        }
        let _: () = self.ask(connection, &cmd("MULTI"), now).await?;
        let queued: String = self.ask(connection, cmd("GET").arg(&key), now).await?;
        if queued != "QUEUED" {
            self.world.fail(format!("{} was in a transaction, and was told {queued}", self.who()));
        }
        let replies: Option<Vec<String>> = self.ask(connection, &cmd("EXEC"), now).await?;
        if let Some(replies) = replies {
            self.compare(&key, replies.first().cloned());
        }
        Ok(())
    }

    async fn block(&mut self, connection: &mut impl ConnectionLike, tag: u32) -> Ended {
        let (key, time) = (self.key(tag), Duration::from_millis(50));
        let command = cmd("BLPOP").arg(&key).arg(time.as_secs_f64()).clone();
        let item: Option<(String, String)> = self.ask(connection, &command, time).await?;
        if let Some((list, item)) = item {
            self.compare(&key, list);
            self.compare(&key, item);
        }
        Ok(())
    }

    /// Subscribes, and hears what is published for a while.
    async fn listen(&mut self, pool: &GuardedPool) -> Ended {
        let mut subscriber = pool.pubsub(self.endpoint()).await?;
        let channel = self.channel();
        subscriber.subscribe(&channel).await?;
        let until = Instant::now() + Duration::from_millis(self.rng.u64(..400));
        while let Ok(Some(event)) = tokio::time::timeout_at(until, subscriber.next()).await {
            match event? {
                PubSubEvent::Message(message) => {
                    self.world.lock().count("message");
                    let heard = message.get_channel_name().to_owned();
                    self.compare(&channel, heard);
                    self.compare(&channel, message.get_payload::<String>().ok());
                }
                PubSubEvent::Gap => self.world.lock().count("gap"),
            }
        }
        Ok(())
    }

    fn channel(&mut self) -> String {
        format!("channel-{}", self.rng.u32(..3))
    }

    async fn publish(&mut self, pool: &GuardedPool) -> Ended {
        let (mut shared, channel) = (pool.shared(self.endpoint()), self.channel());
        let command = cmd("PUBLISH").arg(&channel).arg(&channel).clone();
        let _: u64 = self.ask(&mut shared, &command, Duration::ZERO).await?;
        Ok(())
    }

    /// The pool's books add up.
    fn look(&mut self, pool: &GuardedPool) {
        let status = pool.status();
        let connected = status.dials.get("connected").copied().unwrap_or_default();
        let closed: u64 = status.connections_closed.values().sum();
        if connected != closed + status.live as u64 {
            let live = status.live;
            self.world.fail(format!("{connected} connected, {closed} closed, and {live} live"));
        }
        let endpoints = || status.endpoints.iter();
        let in_use: usize = endpoints().map(|endpoint| endpoint.in_use).sum();
        let waiting: usize = endpoints().map(|endpoint| endpoint.waiting).sum();
        if (in_use, waiting) != (status.in_use, status.waiting) {
            let all = (status.in_use, status.waiting);
            self.world
                .fail(format!("{all:?} in use and waiting, {in_use} and {waiting} by endpoint"));
        }
        if status.idle + status.in_use > status.live + self.pools.plan.callers {
            self.world.fail(format!("more are idle or in use than live: {status:?}"));
        }
    }
}
