//! Events: what happened, for whoever subscribes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use serde::Serialize;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use crate::error::DialFailure;
use crate::status::{CloseReason, Leak};
use crate::{BreakerState, Endpoint, Rejection};

/// How many events a subscriber may fall behind before it misses some: minutes of an outage's
/// transitions and dials, or a moment's rejections.
const BACKLOG: usize = 1024;

/// Something that happened to a pool.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The breaker changed its state.
    #[non_exhaustive]
    BreakerChanged {
        /// The state before.
        from: BreakerState,
        /// The state now.
        to: BreakerState,
    },
    /// A dial succeeded.
    #[non_exhaustive]
    Connected {
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
        /// The limit before.
        from: usize,
        /// The limit now.
        to: usize,
    },
    /// A live connection was closed.
    #[non_exhaustive]
    ConnectionClosed {
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
    /// A lease has been held for longer than `leak_after`.
    LeakSuspected(Leak),
    /// Such a lease came back.
    LeakResolved(Leak),
    /// The subscriber fell behind and missed `count` events.
    #[non_exhaustive]
    Missed {
        /// How many.
        count: u64,
    },
}

fn as_text<S: serde::Serializer>(rejection: &Rejection, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(rejection)
}

/// The sending side, one a pool.
#[derive(Debug)]
pub(crate) struct EventBus(broadcast::Sender<Event>);

impl EventBus {
    pub(crate) fn new() -> Self {
        Self(broadcast::channel(BACKLOG).0)
    }

    /// Sends an event that is made only if somebody listens: rejections come by the million.
    pub(crate) fn send(&self, event: impl FnOnce() -> Event) {
        if self.0.receiver_count() > 0 {
            // Nobody left to hear it is no error.
            let _ = self.0.send(event());
        }
    }

    pub(crate) fn subscribe(&self) -> Events {
        Events(BroadcastStream::new(self.0.subscribe()))
    }
}

/// A stream of [`Event`]s from the moment of subscription; see
/// [`GuardedPool::events`](crate::GuardedPool::events).
///
/// It ends when the pool is gone. A subscriber that falls more than 1,024 events behind gets one
/// [`Event::Missed`] in place of those it missed.
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
