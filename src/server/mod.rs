//! What the server says of itself: INFO parsed, and what changed since the last time.
//!
//! A full Redis is the one that monitoring cannot reach: whoever dials to ask is refused like
//! everybody else. So nothing here dials. [`ServerSnapshot`] is made from the text of an INFO that
//! came over a connection somebody holds anyway, and [`ServerObserver`] compares one with the next:
//!
//! ```
//! use redis_guard::server::{ServerObserver, ServerSnapshot};
//! use tokio::time::Instant;
//!
//! let info = "connected_clients:8999\r\nconnected_slaves:1\r\nmaxclients:10000\r\n";
//! let snapshot = ServerSnapshot::parse(info);
//! assert_eq!((snapshot.used(), snapshot.free()), (Some(9_000), Some(1_000)));
//!
//! let mut observer = ServerObserver::default();
//! let observation = observer.observe(snapshot, Instant::now());
//! assert_eq!(observation.saturation(), Some(0.9));
//! assert_eq!(observation.new_rejections, None, "nothing to compare with yet");
//! ```
//!
//! **Unknown stays unknown.** Vendors leave fields out, send `-1`, or count below zero. Such a
//! field is `None`, never zero: a limit that is computed from a made-up zero either starves the
//! service or lets it grow without end.

mod clients;
pub(crate) mod gate;
mod observer;
mod snapshot;
mod watch;

pub use clients::{Client, ClientList};
pub use observer::{Observation, ServerEvent, ServerObserver, worst};
pub use snapshot::{Product, Replica, Role, ServerSnapshot};
pub use watch::ServerWatch;

/// The part of the slots that is taken; above 1 where the ceiling was lowered under those that
/// hold one.
pub(crate) fn ratio(used: u64, ceiling: u64) -> f64 {
    as_f64(used) / as_f64(ceiling)
}

#[expect(clippy::cast_precision_loss, reason = "a count of connections is far below 2^52")]
fn as_f64(count: u64) -> f64 {
    count as f64
}
