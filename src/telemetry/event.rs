//! Events: what happened, for whoever subscribes.

use std::collections::VecDeque;
use std::mem::discriminant;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_core::Stream;
use serde::Serialize;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use crate::server::ServerEvent;
use crate::telemetry::status::{CloseReason, Leak, LimitedBy};
use crate::vocabulary::DialFailure;
use crate::{BreakerState, Endpoint, Rejection};

/// How many events a subscriber may fall behind before it misses some: minutes of an outage's
/// transitions and dials, or a moment's rejections.
const BACKLOG: usize = 1024;

/// How many events a pool remembers: an outage from its first refusal to its recovery, on one page.
const RECENT: usize = 100;

/// How many of them may be rejections, and how many changes of the limit: an endpoint without enough
/// budget is refused in every second, a fleet's limit may come and go with the load, and neither must
/// push out how the last outage began.
const RECENT_OF_A_KIND: usize = 20;

/// Something that happened to a pool.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The breaker changed its state.
    #[non_exhaustive]
    BreakerChanged {
        /// The server.
        server: Arc<str>,
        /// The state before.
        from: BreakerState,
        /// The state now.
        to: BreakerState,
    },
    /// A dial succeeded.
    #[non_exhaustive]
    Connected {
        /// To which server.
        server: Arc<str>,
        /// Live connections now.
        live: usize,
    },
    /// A dial failed.
    #[non_exhaustive]
    DialFailed {
        /// How, and in whose words.
        failure: Arc<DialFailure>,
        /// Time to the next dial.
        #[serde(skip)]
        next_dial_in: Duration,
    },
    /// The number of sockets that may be open changed.
    #[non_exhaustive]
    LimitChanged {
        /// The server.
        server: Arc<str>,
        /// The limit before.
        from: usize,
        /// The limit now.
        to: usize,
        /// Who set it.
        limited_by: LimitedBy,
    },
    /// A live connection was closed.
    #[non_exhaustive]
    ConnectionClosed {
        /// To which server.
        server: Arc<str>,
        /// Why.
        reason: CloseReason,
    },
    /// A caller was refused.
    #[non_exhaustive]
    Rejected {
        /// Its endpoint.
        endpoint: Endpoint,
        /// Why.
        #[serde(serialize_with = "as_text")]
        rejection: Rejection,
    },
    /// A lease has been without a command for longer than `leak_after`.
    LeakSuspected(Leak),
    /// Such a lease came back, or is used again.
    LeakResolved(Leak),
    /// The server can no longer be watched, or never could: it denies INFO, or does not answer.
    #[non_exhaustive]
    WatchLost {
        /// The server.
        server: Arc<str>,
        /// Why, in the server's words or ours.
        reason: String,
    },
    /// The server is watched.
    #[non_exhaustive]
    WatchFound {
        /// The server.
        server: Arc<str>,
    },
    /// The fleet's registry cannot be reached.
    #[non_exhaustive]
    FleetLost {
        /// The server.
        server: Arc<str>,
        /// Why, in the server's words or ours.
        reason: String,
    },
    /// The pool is a member of its fleet.
    #[non_exhaustive]
    FleetJoined {
        /// The server.
        server: Arc<str>,
        /// How many members it has.
        members: usize,
    },
    /// The server refused new credentials on a live connection, which goes on as it was, or their
    /// provider failed. Told once for all connections.
    #[non_exhaustive]
    CredentialsFailed {
        /// The server.
        server: Arc<str>,
        /// Why, in the server's words or the provider's, without the password.
        reason: String,
    },
    /// The sentinels have named another master, which says itself that it is one: from here on nothing goes
    /// to the one before.
    #[non_exhaustive]
    MasterChanged {
        /// The master's name, as the sentinels know it.
        master: String,
        /// The server before.
        from: Arc<str>,
        /// The server now.
        to: Arc<str>,
    },
    /// No sentinel says any more where the server is, or none has ever said it. The pool goes on with the
    /// server that was named last, and does not follow a failover meanwhile. Told once, not for each time
    /// that they are asked in vain.
    #[non_exhaustive]
    SentinelsLost {
        /// The master's name, as the sentinels know it.
        master: String,
        /// Why, of each of them.
        reason: String,
    },
    /// A sentinel says again where the server is.
    #[non_exhaustive]
    SentinelsFound {
        /// The master's name, as the sentinels know it.
        master: String,
    },
    /// The nodes of the cluster serve other slots than before, or others serve them: after a failover, say,
    /// or while slots are moved, and when they are told for the first time.
    #[non_exhaustive]
    ClusterChanged {
        /// The primaries that serve slots now.
        primaries: Vec<Arc<str>>,
    },
    /// No node says any more who the nodes of the cluster are, or none has ever said it. The pool goes on with
    /// those that were named last. Told once, not for each time that they are asked in vain.
    #[non_exhaustive]
    ClusterLost {
        /// Why.
        reason: String,
    },
    /// A node says again who the nodes of the cluster are.
    ClusterFound,
    /// The subscriber fell behind and missed `count` events.
    #[non_exhaustive]
    Missed {
        /// How many.
        count: u64,
    },
    /// Something happened to the server itself.
    #[serde(untagged)]
    #[non_exhaustive]
    Server {
        /// The server.
        server: Arc<str>,
        /// What happened.
        #[serde(flatten)]
        event: ServerEvent,
    },
}

fn as_text<S: serde::Serializer>(rejection: &Rejection, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(rejection)
}

/// An [`Event`] that the pool remembers; see
/// [`GuardedPool::recent_events`](crate::GuardedPool::recent_events).
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RecentEvent {
    /// When it happened; as JSON, in seconds since the Unix epoch.
    #[serde(serialize_with = "unix_seconds")]
    pub at: SystemTime,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

fn unix_seconds<S: serde::Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    serializer.serialize_f64(since.as_secs_f64())
}

/// The sending side, one a pool.
#[derive(Debug)]
pub(crate) struct EventBus {
    subscribers: broadcast::Sender<Event>,
    /// Set by the first subscriber: to ask the channel takes its lock.
    heard: AtomicBool,
    /// Rarely taken: of rejections, which come by the million, only one a second is remembered.
    recent: Mutex<VecDeque<RecentEvent>>,
    /// The second of the last rejection in `recent`.
    last_rejection: AtomicU64,
}

impl EventBus {
    pub(crate) fn new() -> Self {
        Self {
            subscribers: broadcast::channel(BACKLOG).0,
            heard: AtomicBool::new(false),
            recent: Mutex::new(VecDeque::with_capacity(RECENT)),
            last_rejection: AtomicU64::new(u64::MAX),
        }
    }

    pub(crate) fn send(&self, event: Event) {
        self.remember(event.clone());
        // Nobody there to hear it is no error.
        let _ = self.subscribers.send(event);
    }

    /// Sends a rejection, which is made only if somebody listens, or if it is the first in this
    /// `second` of whatever clock the caller has at hand.
    pub(crate) fn send_rejection(&self, second: u64, event: impl FnOnce() -> Event) {
        // Read before it is written: all but one a second leave the cache line shared.
        let is_first = self.last_rejection.load(Ordering::Relaxed) != second
            && self.last_rejection.swap(second, Ordering::Relaxed) != second;
        if is_first {
            self.send(event());
        } else if self.heard.load(Ordering::Relaxed) && self.subscribers.receiver_count() > 0 {
            let _ = self.subscribers.send(event());
        }
    }

    fn remember(&self, event: Event) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let of_the_kind = || {
            let all = recent.iter().enumerate();
            all.filter(|(_, other)| discriminant(&other.event) == discriminant(&event))
                .map(|(at, _)| at)
        };
        let evicted = match event {
            Event::Rejected { .. } | Event::LimitChanged { .. }
                if of_the_kind().count() >= RECENT_OF_A_KIND =>
            {
                of_the_kind().next()
            }
            _ => (recent.len() >= RECENT).then_some(0),
        };
        if let Some(evicted) = evicted {
            recent.remove(evicted);
        }
        recent.push_back(RecentEvent { at: SystemTime::now(), event });
    }

    pub(crate) fn recent(&self) -> Vec<RecentEvent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub(crate) fn subscribe(&self) -> Events {
        let subscriber = self.subscribers.subscribe();
        self.heard.store(true, Ordering::Relaxed);
        Events(BroadcastStream::new(subscriber))
    }
}

/// A stream of [`Event`]s from the moment of subscription; see
/// [`GuardedPool::events`](crate::GuardedPool::events).
///
/// It ends when the pool is gone. A subscriber that falls more than 1,024 events behind gets one
/// [`Event::Missed`] in place of those it missed.
///
/// ```no_run
/// use redis_guard::{Event, GuardedPool};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = GuardedPool::builder("redis://127.0.0.1:6379").build()?;
/// let mut events = pool.events();
/// while let Some(event) = events.next().await {
///     if let Event::LeakSuspected(leak) = event {
///         eprintln!("{} holds a connection since {}", leak.endpoint, leak.location);
///     }
/// }
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Events(BroadcastStream<Event>);

impl Events {
    /// The next event, or `None` once the pool is gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses no event.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        Pin::new(&mut self.0).poll_next(cx).map(|next| {
            next.map(|event| {
                event.unwrap_or_else(|BroadcastStreamRecvError::Lagged(count)| Event::Missed {
                    count,
                })
            })
        })
    }
}
