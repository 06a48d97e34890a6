//! Subscribers: connections that hold a slot for as long as they listen.

mod silence;
mod subscriptions;

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::poll_fn;
use futures_util::stream::{self, Stream};
use redis::{Msg, RedisError, RedisResult, ToRedisArgs};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use self::silence::{Silence, Turn};
use self::subscriptions::Subscriptions;
use super::acquire::acquire_subscriber;
use super::cluster::HOPS;
use super::intake::Intake;
use super::node::Node;
use super::servers::Servers;
use super::store::Socket;
use super::waiting::{LeasePlace, Subscribed};
use crate::dial::{Kind, Sink};
use crate::telemetry::status::CloseReason;
use crate::vocabulary::reply::within;
use crate::{Endpoint, Error, Rejection};

/// Time before the next attempt where a refusal does not say, or where the server let us in and then
/// refused the subscription.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a connection that is to be replaced is left alone when no other one was to be had: it
/// works.
const REPLACE_RETRY: Duration = Duration::from_secs(30);

/// A subscriber, made by [`GuardedPool::pubsub`](crate::GuardedPool::pubsub).
///
/// It holds one connection, dialed through the same gate as all others, that counts in its
/// endpoint's budget and in `max_connections`, and is exempt from leak detection. When the
/// connection is lost, [`next`](Self::next) gets another one through the gate, at the pace of the
/// back-off, subscribes again, and says [`PubSubEvent::Gap`]. It ends when the pool is closed or
/// the last [`GuardedPool`](crate::GuardedPool) is dropped.
///
/// - **Silence.** While `next` waits and nothing comes, the server is asked with a PING; where no byte comes
///   for [`link_timeout`](crate::GuardedPoolBuilder::link_timeout), the connection counts as lost.
/// - **Reading too slowly.** About 1 MiB of messages is held for a subscriber that does not call `next`. Then
///   its socket is not read any more, and the server holds what follows, within its own
///   `client-output-buffer-limit` for `pubsub`; past that it closes the connection, which is heard as a gap.
///
/// **A connection that works and is to be replaced**, because the pool's credentials have changed,
/// is left only once its successor has subscribed: no message is missed, so there is no `Gap`, but
/// what is published in that moment may come twice. The successor needs a second place in the endpoint's
/// budget meanwhile; without one, the connection stays for as long as it works.
///
/// ```no_run
/// use redis_guard::{GuardedPool, PubSubEvent};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = GuardedPool::builder("redis://127.0.0.1:6379").build()?;
/// let mut orders = pool.pubsub("orders").await?;
/// orders.subscribe("orders:new").await?;
/// while let Some(event) = orders.next().await {
///     match event? {
///         PubSubEvent::Message(message) => println!("{}", message.get_payload::<String>()?),
///         PubSubEvent::Gap => println!("some may have been missed: read them up"),
///         _ => {}
///     }
/// }
/// # Ok(()) }
/// ```
pub struct GuardedPubSub {
    servers: Servers,
    /// It is on the server that has this key.
    key: Option<Vec<u8>>,
    endpoint: Endpoint,
    location: &'static Location<'static>,
    live: Option<Live>,
    subscriptions: Subscriptions,
    /// The connection was replaced while nobody listened.
    gap: bool,
    /// The connection that is to follow the one that is to be replaced, on its way.
    successor: Option<Succession>,
    /// When that is tried again.
    retry: Instant,
    /// A connection that was replaced, and what it has brought until then.
    left: Option<Live>,
}

/// Comes when it has subscribed, and its predecessor is not subscribed any more.
type Succession = oneshot::Receiver<Live>;

struct Live {
    sink: Sink,
    messages: mpsc::UnboundedReceiver<Msg>,
    intake: Arc<Intake>,
    silence: Silence,
    socket: Arc<Socket>,
    place: LeasePlace,
    node: Arc<Node>,
    /// The connection has ended, and not by our doing.
    lost: bool,
}

impl Drop for Live {
    fn drop(&mut self) {
        if !self.lost {
            self.socket.blame(CloseReason::Dropped);
        }
        self.socket.abort();
        self.node.end_lease(self.place);
    }
}

impl Live {
    /// The next message; `None` when the connection has ended, or is taken for dead.
    async fn next(&mut self) -> Option<Msg> {
        let link_timeout = self.node.settings().link_timeout;
        loop {
            // Here, because the channel is taken out of it: it would say that it is empty.
            tokio::task::consume_budget().await;
            let Self { messages, intake, .. } = self;
            let message = poll_fn(|cx| {
                intake.looks(cx);
                let message = messages.poll_recv(cx);
                if message.is_pending() {
                    intake.emptied();
                }
                message
            });
            tokio::select! {
                biased;
                message = tokio::task::unconstrained(message) => return message,
                () = tokio::time::sleep_until(self.silence.turn_ends()) => {}
            }
            match self.silence.turn(self.intake.total(), Instant::now(), link_timeout) {
                Turn::Heard => {}
                // That something was received is answer enough.
                Turn::Ask => self.sink.ping(),
                Turn::Dead => return None,
            }
        }
    }
}

/// What a subscriber hears.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PubSubEvent {
    /// A message.
    Message(Msg),
    /// The connection was lost and has been replaced, and every subscription is back: what was
    /// published in between was missed.
    Gap,
}

impl fmt::Debug for GuardedPubSub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardedPubSub")
            .field("endpoint", &self.endpoint)
            .field("connected", &self.live.is_some())
            .field("subscriptions", &self.subscriptions.len())
            .finish_non_exhaustive()
    }
}

impl GuardedPubSub {
    pub(super) fn new(
        servers: Servers,
        key: Option<Vec<u8>>,
        endpoint: Endpoint,
        location: &'static Location<'static>,
    ) -> Self {
        Self {
            servers,
            key,
            endpoint,
            location,
            live: None,
            subscriptions: Subscriptions::default(),
            gap: false,
            successor: None,
            retry: Instant::now(),
            left: None,
        }
    }

    pub(super) async fn connected(mut self) -> Result<Self, Error> {
        self.connect().await?;
        Ok(self)
    }

    /// Subscribes to one or more channels, now and after every reconnection.
    ///
    /// # Errors
    ///
    /// [`Error::Inner`] with the server's refusal; [`Error::Rejected`] if the connection was lost and
    /// could not be replaced within the acquire timeout. Either way the channels are not remembered.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future may leave the subscription on the connection, but not for the next one.
    pub async fn subscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), Error> {
        self.add(Kind::Channel, channels.to_redis_args()).await
    }

    /// Subscribes to one or more patterns; see [`subscribe`](Self::subscribe).
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe).
    pub async fn psubscribe(&mut self, patterns: impl ToRedisArgs) -> Result<(), Error> {
        self.add(Kind::Pattern, patterns.to_redis_args()).await
    }

    /// Subscribes to one or more shard channels, of what is published with SPUBLISH (Redis 7.0 and later);
    /// see [`subscribe`](Self::subscribe). They go together with channels and patterns.
    ///
    /// In a cluster all shard channels of a subscriber are in one slot, on a connection to the node that has
    /// it: [`pubsub_for`](crate::GuardedPool::pubsub_for) begins there, and a subscriber that has nothing else
    /// goes there. When the slot moves to another node, that counts as a lost connection.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe); the server's refusal may be that it is too old, or, in a cluster,
    /// `MOVED` or `CROSSSLOT`.
    pub async fn ssubscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), Error> {
        self.add(Kind::ShardChannel, channels.to_redis_args()).await
    }

    /// Ends the subscription to one or more channels, or without any to all, now and after every
    /// reconnection.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Self::subscribe); the channels are forgotten all the same.
    pub async fn unsubscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), Error> {
        self.remove(Kind::Channel, channels.to_redis_args()).await
    }

    /// Ends the subscription to one or more patterns; see [`unsubscribe`](Self::unsubscribe).
    ///
    /// # Errors
    ///
    /// As [`unsubscribe`](Self::unsubscribe).
    pub async fn punsubscribe(&mut self, patterns: impl ToRedisArgs) -> Result<(), Error> {
        self.remove(Kind::Pattern, patterns.to_redis_args()).await
    }

    /// Ends the subscription to one or more shard channels; see [`unsubscribe`](Self::unsubscribe).
    ///
    /// # Errors
    ///
    /// As [`unsubscribe`](Self::unsubscribe).
    pub async fn sunsubscribe(&mut self, channels: impl ToRedisArgs) -> Result<(), Error> {
        self.remove(Kind::ShardChannel, channels.to_redis_args()).await
    }

    /// The next message, or the news that some may have been missed; `None` once the pool is
    /// closed. While the server cannot be reached it waits, however long that takes.
    ///
    /// # Errors
    ///
    /// [`Error::Inner`] when the server refused a subscription after a reconnection (an ACL was
    /// changed, say); the next call tries again, after a pause.
    ///
    /// # Cancel safety
    ///
    /// Safe: no message is lost by dropping the future.
    pub async fn next(&mut self) -> Option<Result<PubSubEvent, Error>> {
        if self.servers.is_closed() {
            return None;
        }
        if std::mem::take(&mut self.gap) {
            return Some(Ok(PubSubEvent::Gap));
        }
        if let Some(message) = self.message().await {
            return Some(Ok(PubSubEvent::Message(message)));
        }
        self.lose();
        self.reconnect().await
    }

    /// [`next`](Self::next) as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<PubSubEvent, Error>> + Send {
        stream::unfold(self, |mut this| async move { Some((this.next().await?, this)) })
    }

    async fn add(&mut self, kind: Kind, names: Vec<Vec<u8>>) -> Result<(), Error> {
        let mut subscribed = self.ask(async |sink| sink.subscribe(kind, &names).await).await;
        if kind == Kind::ShardChannel {
            if subscribed.as_ref().is_err_and(|error| self.is_elsewhere(error)) {
                // Nothing else is on this connection: another one, to the node that has the slot.
                (self.live, self.key) = (None, names.first().cloned());
                subscribed = self.ask(async |sink| sink.subscribe(kind, &names).await).await;
            }
            if subscribed.is_ok() && self.key.is_none() {
                self.key = names.first().cloned();
            }
        }
        subscribed?;
        self.subscriptions.add(kind, names);
        Ok(())
    }

    /// Whether a node says that another one has the slot of a shard channel, and may be left for that.
    fn is_elsewhere(&self, error: &Error) -> bool {
        match (error, &self.live) {
            (Error::Inner(error), Some(live)) if self.subscriptions.len() == 0 => {
                self.servers.learns(&live.node, error)
            }
            _ => false,
        }
    }

    async fn remove(&mut self, kind: Kind, mut names: Vec<Vec<u8>>) -> Result<(), Error> {
        if names.is_empty() {
            names = self.subscriptions.all(kind);
        }
        if names.is_empty() {
            return Ok(());
        }
        self.subscriptions.remove(kind, &names);
        self.ask(async |sink| sink.unsubscribe(kind, &names).await).await
    }

    async fn reconnect(&mut self) -> Option<Result<PubSubEvent, Error>> {
        loop {
            match self.connect().await {
                Ok(()) => return Some(Ok(PubSubEvent::Gap)),
                Err(Error::Rejected(Rejection::Closed)) if self.servers.is_closed() => return None,
                Err(Error::Rejected(rejection)) => {
                    let pause = match rejection.retry_after() {
                        Some(retry_after) => retry_after.max(Duration::from_millis(1)),
                        // It has waited for the acquire timeout already.
                        None if matches!(rejection, Rejection::AcquireTimeout { .. }) => continue,
                        None => PAUSE,
                    };
                    self.pause(pause).await;
                }
                Err(error) => {
                    self.pause(PAUSE).await;
                    return Some(Err(error));
                }
            }
        }
    }

    /// Waits, unless the pool is closed first.
    async fn pause(&self, pause: Duration) {
        let _ = tokio::time::timeout(pause, self.servers.closed()).await;
    }

    /// Asks the server for something, on a connection that works. One that does not answer in time is
    /// closed: what is subscribed there is not known.
    async fn ask(&mut self, ask: impl AsyncFnOnce(&Sink) -> RedisResult<()>) -> Result<(), Error> {
        if let Some(successor) = &mut self.successor {
            // What changes is for the one that is going to be listened to.
            let succession = successor.await;
            self.succeed(succession);
        }
        let limit = Some(self.servers.context().settings.response_timeout);
        let Live { sink, intake, .. } = self.ready().await?;
        let room = intake.unbounded();
        let answer = within(limit, ask(sink)).await;
        drop(room);
        if answer.as_ref().is_err_and(RedisError::is_timeout) {
            self.live = None;
            return Err(silent().into());
        }
        Ok(answer?)
    }

    /// Something to subscribe with.
    async fn ready(&mut self) -> Result<&mut Live, Error> {
        if self.live.as_ref().is_some_and(|live| !live.socket.is_alive()) {
            self.lose();
        }
        if self.live.is_none() {
            self.connect().await?;
            self.gap = self.subscriptions.len() > 0;
        }
        self.live.as_mut().ok_or_else(|| Rejection::Closed.into())
    }

    /// Gets a connection through the gate, and subscribes to what was subscribed to before.
    async fn connect(&mut self) -> Result<(), Error> {
        let mut hops = HOPS;
        loop {
            let node = self.servers.primary_of(self.key.as_deref()).await?;
            let endpoint = self.endpoint.clone();
            match open(Arc::clone(&node), endpoint, self.location, &self.subscriptions).await {
                Ok(live) => {
                    self.live = Some(live);
                    return Ok(());
                }
                Err(Error::Inner(error)) if hops > 0 && self.servers.learns(&node, &error) => {
                    hops -= 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The connection has ended.
    fn lose(&mut self) {
        if let Some(mut live) = self.live.take() {
            live.lost = true;
        }
        self.successor = None;
    }

    /// The next message of the connection; `None` once it has ended. One that is to be replaced is so
    /// meanwhile.
    async fn message(&mut self) -> Option<Msg> {
        loop {
            if let Some(left) = &mut self.left {
                // What is not taken now is lost.
                if let Ok(message) = left.messages.try_recv() {
                    return Some(message);
                }
                self.left = None;
            }
            self.look_for_successor();
            let live = self.live.as_mut()?;
            let socket = Arc::clone(&live.socket);
            let outdated = socket.is_outdated();
            let look_again = async {
                match outdated {
                    true => tokio::time::sleep_until(self.retry).await,
                    false => socket.until(Socket::is_outdated).await,
                }
            };
            let following = self.successor.is_some();
            let succession = async {
                match &mut self.successor {
                    Some(successor) => successor.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // First, or one that is flooded with messages would never leave its connection.
                succession = succession => self.succeed(succession),
                message = live.next() => return message,
                () = look_again, if !following && socket.is_alive() => {}
            }
        }
    }

    /// Starts to replace a connection that is to be replaced, where there is a place for another one
    /// and dials work.
    fn look_for_successor(&mut self) {
        let Some(live) = &self.live else { return };
        let due = live.socket.is_outdated() && Instant::now() >= self.retry;
        if !due || self.successor.is_some() || self.left.is_some() {
            return;
        }
        self.retry = Instant::now() + REPLACE_RETRY;
        if !live.node.lock().may_have_another(live.place) {
            return;
        }
        let (node, endpoint, location) =
            (Arc::clone(&live.node), self.endpoint.clone(), self.location);
        let subscriptions = self.subscriptions.clone();
        let (sink, intake) = (live.sink.clone(), Arc::clone(&live.intake));
        let (sender, successor) = oneshot::channel();
        self.successor = Some(successor);
        live.node.spawn(async move {
            let limit = node.settings().response_timeout;
            let Ok(successor) = open(node, endpoint, location, &subscriptions).await else {
                return;
            };
            // Once that is answered, all that it has brought is there to be read.
            let _room = intake.unbounded();
            let _ = tokio::time::timeout(limit, subscriptions.end(&sink)).await;
            // A subscriber that is gone drops it.
            drop(sender.send(successor));
        });
    }

    fn succeed(&mut self, successor: Result<Live, oneshot::error::RecvError>) {
        self.successor = None;
        if let Ok(successor) = successor {
            self.left = self.live.replace(successor);
            if let Some(left) = &self.left {
                left.socket.blame_age();
            }
        }
    }
}

/// Gets a connection through the gate, and subscribes.
async fn open(
    node: Arc<Node>,
    endpoint: Endpoint,
    location: &'static Location<'static>,
    subscriptions: &Subscriptions,
) -> Result<Live, Error> {
    let (subscribed, waited) = acquire_subscriber(&node, &endpoint, location).await?;
    let Subscribed { sink, messages, intake, socket, place } = subscribed;
    node.metrics.waited(waited);
    let limit = node.settings().response_timeout;
    let silence = Silence::new(Instant::now(), node.settings().link_timeout);
    let live = Live { sink, messages, intake, silence, socket, place, node, lost: false };
    let room = live.intake.unbounded();
    let made = tokio::time::timeout(limit, subscriptions.make(&live.sink)).await;
    drop(room);
    made.unwrap_or_else(|_| Err(silent()))?;
    Ok(live)
}

fn silent() -> RedisError {
    let why = "no reply to a subscription within the response timeout";
    std::io::Error::new(std::io::ErrorKind::TimedOut, why).into()
}
