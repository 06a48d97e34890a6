//! Where a node's server is, and who says so.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;

use crate::DialFailure;
use crate::dial::Target;
use crate::server::{Role, Server};
use crate::telemetry::status::SentinelServerStatus;

/// Where a node's server is, and what the process knows of it.
#[derive(Debug)]
pub(in crate::pool) struct Place {
    pub(in crate::pool) target: Target,
    pub(in crate::pool) server: Arc<Server>,
    /// What the server has to say it is, for somebody else has said so.
    claim: Option<Role>,
    /// It has.
    proven: AtomicBool,
}

impl Place {
    pub(in crate::pool) fn new(target: Target, server: Arc<Server>) -> Self {
        Self { target, server, claim: None, proven: AtomicBool::new(true) }
    }

    /// One that is somebody's word, until the server itself says that it is this.
    pub(in crate::pool) fn claimed(target: Target, server: Arc<Server>, claim: Role) -> Self {
        Self { target, server, claim: Some(claim), proven: AtomicBool::new(false) }
    }

    /// What the server still has to say it is.
    pub(in crate::pool) fn claim(&self) -> Option<Role> {
        self.claim.filter(|_| !self.proven.load(Ordering::Relaxed))
    }

    pub(super) fn set_proven(&self, proven: bool) {
        self.proven.store(proven, Ordering::Relaxed);
    }
}

/// Why it is asked anew where a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pool) enum Doubt {
    /// A connection was lost, or a reply says that it is the wrong one.
    Lost,
    /// It could not be dialed.
    Unreachable,
    /// It says itself that it is the wrong one.
    WrongRole,
}

/// Says where a node's server is. Asked before every dial, so what is known must cost nothing.
pub(in crate::pool) trait Resolve: Send + Sync + fmt::Debug {
    /// The place now. A failure backs off like a dial's, and is what callers hear.
    fn resolve(&self) -> Resolving<'_>;

    /// The place by the last word, which nobody has to be asked for.
    fn latest(&self) -> Option<Arc<Place>> {
        None
    }

    /// There is reason to ask anew, before the next dial.
    fn doubt(&self, _place: &Place, _doubt: Doubt) {}

    /// A dial has found what was to be there.
    fn confirm(&self, _place: &Place) {}

    /// Sees to it that what changes is heard, for as long as it is polled.
    fn listen(&self) -> Listening<'_> {
        Box::pin(std::future::pending())
    }

    /// Completes when [`latest`](Self::latest) may have changed since the call.
    fn news(&self) -> Listening<'_> {
        Box::pin(std::future::pending())
    }

    /// The name under which the fleet keeps its registry there; `None` where it cannot keep one.
    fn registry(&self, fleet: &str) -> Option<String> {
        Some(fleet.to_owned())
    }

    /// Whose answer [`resolve`](Self::resolve) waits for, as the failure that it is to those who do not
    /// wait so long.
    fn unanswered(&self) -> Option<DialFailure> {
        None
    }

    /// What is to be told of the sentinels, where it is they who say.
    fn sentinels(&self) -> Option<SentinelsSeen> {
        None
    }
}

/// A pool's sentinels at one moment.
#[derive(Debug)]
pub(in crate::pool) struct SentinelsSeen {
    /// The master's name, as they know it.
    pub(in crate::pool) master: Arc<str>,
    /// The pool's server is the master, and not one of its replicas.
    pub(in crate::pool) is_master: bool,
    pub(in crate::pool) sentinels: Vec<SentinelServerStatus>,
    /// Why none of them answers.
    pub(in crate::pool) trouble: Option<String>,
}

pub(in crate::pool) type Resolving<'a> =
    Pin<Box<dyn Future<Output = Result<Arc<Place>, DialFailure>> + Send + 'a>>;

pub(in crate::pool) type Listening<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What is new about the server that a dial has found.
#[derive(Debug)]
pub(in crate::pool) enum Arrival {
    /// Nothing: connections went there before.
    Known,
    /// There was none before.
    First,
    /// The one before.
    From(Arc<str>),
}

/// Where a node's connections go, and how often that has changed.
#[derive(Debug, Default)]
pub(in crate::pool) struct Moves {
    /// Where they go.
    at: Option<Arc<str>>,
    pub(in crate::pool) since: Option<Instant>,
    pub(in crate::pool) count: u64,
    /// The server is said to be elsewhere, and no dial has shown it yet.
    under_way: bool,
}

impl Moves {
    /// The server is said to be there.
    pub(in crate::pool) fn head_for(&mut self, server: &str) {
        self.under_way = self.at.as_deref() != Some(server);
    }

    pub(in crate::pool) fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// A dial has shown that it is there.
    pub(in crate::pool) fn arrive(&mut self, server: &Arc<str>, now: Instant) -> Arrival {
        self.under_way = false;
        if self.at.as_ref() == Some(server) {
            return Arrival::Known;
        }
        self.since = Some(now);
        match self.at.replace(Arc::clone(server)) {
            None => Arrival::First,
            Some(before) => {
                self.count += 1;
                Arrival::From(before)
            }
        }
    }
}
