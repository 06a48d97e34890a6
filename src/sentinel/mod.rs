//! Sentinels: what they say of where servers are, asked and heard once for all pools of the process.
//!
//! The pools whose sentinels are the same ones share a [`Sentinels`]. One of them at a time keeps it
//! going ([`Sentinels::listen`]), over one connection to one sentinel, on which it asks for all and
//! hears what is published. If that one does not answer it is the next one's turn. Each sentinel has a
//! gate like any other server, for it has a `maxclients` like any other.

mod instance;
mod known;
mod link;
mod listener;
mod question;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use self::known::{Excuse, Known};
use crate::dial::{Dialer, Login, Target};
use crate::policy::Breaker;
use crate::server::Server;
use crate::server::gate::{DialPolicy, Gate};
use crate::vocabulary::{DialFailure, Outcome};

#[cfg(feature = "doctor")]
pub(crate) use instance::{Instance, Named};
pub(crate) use known::Said;
pub(crate) use question::Question;

/// The first back-off after a failed dial where sentinels tell of every move, also for the servers they
/// name: what is gained by dialing what is down is little, and a process then fails at most three times
/// in a second.
pub(crate) const FIRST_BACKOFF: Duration = Duration::from_millis(300);

/// How much longer than it can take to ask all sentinels somebody waits for that: the task that does it
/// may be on a runtime that is blocked.
const GRACE: Duration = Duration::from_secs(1);

/// One set of sentinels.
pub(crate) struct Sentinels {
    sentinels: Vec<Sentinel>,
    dialer: Dialer,
    known: Mutex<Known>,
    /// There is an answer, or none is to be had.
    told: Notify,
    /// Somebody asks.
    asked: Notify,
    /// Whoever keeps it going. Locked for an instant.
    listener: Mutex<Listener>,
    /// Nobody does any more.
    vacant: Notify,
}

/// Who keeps a set going.
#[derive(Debug, Default)]
struct Listener {
    /// Counts those that there were, to tell one from the next.
    number: u64,
    /// When it was last seen at work; `None` while nobody is.
    seen: Option<Instant>,
}

/// One sentinel.
struct Sentinel {
    target: Target,
    login: Login,
    server: Arc<Server>,
    /// Locked for an instant, by the listener.
    gate: Mutex<Gate>,
}

impl Sentinel {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sets that pools of this process share, by their sentinels and by how they are spoken to. Weak, so
/// that a set is forgotten with the last of its pools.
static SETS: LazyLock<Mutex<HashMap<Vec<String>, Weak<Sentinels>>>> = LazyLock::new(Mutex::default);

impl Sentinels {
    /// The set of these sentinels, at least one, as all pools of the process share it that log in alike, and
    /// have the same certificates, of which `trust` is made. The first of them gives it its name in
    /// `CLIENT LIST`: they have one connection.
    pub(crate) fn shared(
        targets: Vec<(Target, Login)>,
        trust: u64,
        dialer: Dialer,
        seed: u64,
    ) -> Arc<Self> {
        let text = |(target, login): &(Target, Login)| {
            let (user, password) = (login.redis.username(), login.redis.password());
            format!("{} {} {user:?} {password:?}", target.name, target.address.is_tls())
        };
        let mut key: Vec<String> = targets.iter().map(text).collect();
        key.sort_unstable();
        key.push(trust.to_string());
        let mut sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(set) = sets.get(&key).and_then(Weak::upgrade) {
            return set;
        }
        sets.retain(|_, set| set.strong_count() > 0);
        let set = Arc::new(Self::new(targets, dialer, seed));
        sets.insert(key, Arc::downgrade(&set));
        set
    }

    fn new(targets: Vec<(Target, Login)>, dialer: Dialer, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let policy = DialPolicy {
            backoff: None,
            first_backoff: FIRST_BACKOFF,
            breaker: Breaker::default(),
            connect_timeout: dialer.connect_timeout,
        };
        // The processes of a fleet spread over the sentinels.
        let known = Known::new(targets.len(), rng.usize(..targets.len().max(1)));
        let sentinel = |(target, login): (Target, Login)| {
            let server = Server::shared(&target.address, rng.u64(..));
            let gate = Mutex::new(Gate::new(Arc::clone(&server), policy, rng.u64(..)));
            Sentinel { target, login, server, gate }
        };
        Self {
            sentinels: targets.into_iter().map(sentinel).collect(),
            dialer,
            known: Mutex::new(known),
            told: Notify::new(),
            asked: Notify::new(),
            listener: Mutex::default(),
            vacant: Notify::new(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listener(&self) -> MutexGuard<'_, Listener> {
        self.listener.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known, and tells those who wait.
    fn learn<R>(&self, learn: impl FnOnce(&mut Known) -> R) -> R {
        let result = learn(&mut self.known());
        self.told.notify_waiters();
        result
    }

    /// A pool wants to know, until it says that it does not any more.
    pub(crate) fn want(&self, question: &Question) {
        self.known().want(question);
    }

    pub(crate) fn forget(&self, question: &Question) {
        self.known().forget(question);
    }

    /// Completes when something was learned since the future was [enabled](Notified::enable).
    pub(crate) fn told(&self) -> Notified<'_> {
        self.told.notified()
    }

    /// What was said last.
    pub(crate) fn said(&self, question: &Question) -> Option<Said> {
        self.known().said(question).cloned()
    }

    /// What is said as of `since`, or why nobody says it. One question serves all who wait.
    ///
    /// **Bounded in time**: each sentinel has the connect timeout to let us in, and as long to answer.
    pub(crate) async fn ask(
        &self,
        question: &Question,
        since: Instant,
    ) -> Result<Said, DialFailure> {
        let all = u32::try_from(self.sentinels.len()).unwrap_or(u32::MAX);
        let limit = (self.dialer.connect_timeout * 2).saturating_mul(all) + GRACE;
        let answer = async {
            loop {
                let mut told = std::pin::pin!(self.told());
                told.as_mut().enable();
                let answer = self.known().ask(question, since);
                match answer {
                    Some(Some(said)) => return Ok(said),
                    Some(None) => return Err(self.failure(question)),
                    None => self.asked.notify_one(),
                }
                told.await;
            }
        };
        let late = || Err(self.unanswered(question).unwrap_or_else(|| self.failure(question)));
        tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| late())
    }

    /// What was said led nowhere: nothing is there, say. After a while it is another sentinel's turn.
    pub(crate) fn useless(&self, question: &Question, now: Instant) {
        if self.known().useless(question, now) {
            self.asked.notify_one();
        }
    }

    /// What was said is not so: it is another sentinel's turn.
    pub(crate) fn distrust(&self, question: &Question) {
        self.known().distrust(question);
        self.asked.notify_one();
    }

    /// What was said leads somewhere.
    pub(crate) fn confirm(&self, question: &Question) {
        self.known().confirm(question);
    }

    /// Each sentinel: its address, whether it is connected, and why it did not answer last.
    pub(crate) fn each(&self) -> Vec<(Arc<str>, bool, Option<Arc<DialFailure>>)> {
        let known = self.known();
        let seen = self.sentinels.iter().zip(known.sentinels());
        seen.map(|(sentinel, seen)| {
            (Arc::clone(&sentinel.target.name), seen.connected, seen.failure.clone())
        })
        .collect()
    }

    /// Who has not answered yet, if somebody was asked.
    pub(crate) fn unanswered(&self, question: &Question) -> Option<DialFailure> {
        let at = self.known().awaited?;
        Some(DialFailure {
            server: Arc::clone(question.name()),
            outcome: Outcome::Timeout,
            message: format!("no answer from sentinel {} yet", self.sentinels[at].target.name),
        })
    }

    /// Why no sentinel says it, if none did when all were asked. Not where one is lost and the next one is
    /// being asked: another one nearly always knows.
    pub(crate) fn trouble(&self, question: &Question) -> Option<String> {
        let unanswered = self.known().is_unanswered(question);
        unanswered.then(|| self.failure(question).message)
    }

    /// Why no sentinel answers.
    fn failure(&self, question: &Question) -> DialFailure {
        let known = self.known();
        let excuses = known.excuses(question);
        let words = excuses.iter().map(|(at, excuse)| {
            let sentinel = &self.sentinels[*at].target.name;
            match excuse {
                Excuse::Failed(DialFailure { outcome, message, .. }) => {
                    format!("{sentinel} [{outcome}] {message}")
                }
                Excuse::Ignorant(words) => format!("{sentinel}: {words}"),
            }
        });
        let words = words.collect::<Vec<_>>().join("; ");
        let outcomes = excuses.iter().map(|(_, excuse)| match excuse {
            Excuse::Failed(failure) => failure.outcome,
            Excuse::Ignorant(_) => Outcome::Misconfigured,
        });
        // A name that one does not know is wrong, whatever became of the others.
        let outcome = outcomes.reduce(|first, other| match other {
            Outcome::Misconfigured => other,
            _ => first,
        });
        DialFailure {
            server: Arc::clone(question.name()),
            outcome: outcome.unwrap_or(Outcome::Timeout),
            message: match words.is_empty() {
                true => "its sentinels have not been asked yet".to_owned(),
                false => format!("no sentinel says where it is: {words}"),
            },
        }
    }
}

impl fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.sentinels.iter().map(|sentinel| &sentinel.target.name).collect();
        f.debug_struct("Sentinels").field("sentinels", &names).finish_non_exhaustive()
    }
}
