//! Retries: of what is safe to repeat, when the server may be ready for it, and not too many.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use fastrand::Rng;
use metrics::SharedString;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind};
use tokio::time::Sleep;
use tower::retry::Policy;

use super::classify::{BoxError, chain};
use crate::policy::Withdrawal;
use crate::telemetry::metrics::retried;
use crate::vocabulary::command::is_read_only;
use crate::vocabulary::redis_error::rejection_in;
use crate::{Backoff, Error, Rejection, RetryBudget};

/// Attempts at one call, the first included: two more bridge a failover or a short refusal, and what is
/// still refused then is not a hiccup.
const ATTEMPTS: u32 = 3;

/// The longest wait that a retry is worth: within an interactive caller's patience of a second or
/// two. A refusal that names a longer one is passed on at once.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// A [`tower::retry::Policy`](Policy) that retries what is safe to, under a [`RetryBudget`].
///
/// - **What**: a call of which nothing was sent (a refusal of the guard), a command that the server did
///   not run for a reason that passes (READONLY of a demoted primary, LOADING), or, where it may have
///   run, one that the server's own flags call `readonly` ([`RetryRequest::is_idempotent`]). An error
///   that another attempt would meet again (WRONGTYPE, a wrong password, a closed pool) is final.
/// - **When**: after the back-off with *full* jitter, by default 50 ms to 5 s: callers who retry
///   contend with each other, and full jitter does the least work then. Never before a refusal's
///   `retry_after`, and not at all where that is over 2 s.
/// - **How many**: 3 attempts in all, and over all callers what the budget allows. Share one policy, or
///   one [`RetryBudget`], among all services of one server.
///
/// A call that is not retried keeps its own error. What became of each failed call is counted in
/// `redis_guard_retries_total` by `outcome`: `retried`; `cancelled` while it waited; or not
/// retried because it was `final`, `unsafe`, a wait `too_long`, or all `attempts`, or the `budget`,
/// were spent.
///
/// ```no_run
/// use std::time::Duration;
///
/// use redis_guard::{GuardedPool, redis::Cmd, tower::RetryPolicy};
/// use tower::{ServiceBuilder, ServiceExt};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = GuardedPool::builder("redis://127.0.0.1:6379").build()?;
/// let retries = RetryPolicy::default().longest_wait(Duration::from_millis(250));
/// let redis = ServiceBuilder::new().retry(retries).service(pool.service("search"));
/// let hits = redis.oneshot(Cmd::get("hits")).await?;
/// # let _ = hits; Ok(()) }
/// ```
#[derive(Clone)]
pub struct RetryPolicy {
    pool: SharedString,
    backoff: Backoff,
    budget: RetryBudget,
    attempts: u32,
    longest_wait: Duration,
    /// Gives each call its own.
    seeds: Arc<Mutex<Rng>>,
    rng: Rng,
    /// Of this call so far.
    failures: u32,
    previous: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            pool: SharedString::const_str("default"),
            backoff: Backoff::full_jitter(Duration::from_millis(50), Duration::from_secs(5)),
            budget: RetryBudget::default(),
            attempts: ATTEMPTS,
            longest_wait: LONGEST_WAIT,
            seeds: Arc::new(Mutex::new(Rng::new())),
            rng: Rng::new(),
            failures: 0,
            previous: Duration::ZERO,
        }
    }
}

impl RetryPolicy {
    /// The `pool` label of its metric. Default `default`.
    #[must_use]
    pub fn name(mut self, pool: impl Into<String>) -> Self {
        self.pool = pool.into().into();
        self
    }

    /// The back-off between attempts. Default: full jitter, 50 ms to 5 s, which does the least work where
    /// callers contend. Taken as it is: no `build` looks at it.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// The budget of all retries, to share it with other policies. Default: one of its own; see
    /// [`RetryBudget`].
    #[must_use]
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// Attempts at one call, the first included. Default 3; 0 and 1 never retry.
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// The longest `retry_after` of a refusal that is waited for, the back-off apart. Default 2 s, the
    /// patience of an interactive caller; less where a timeout outside is shorter.
    #[must_use]
    pub const fn longest_wait(mut self, wait: Duration) -> Self {
        self.longest_wait = wait;
        self
    }

    /// Seeds the jitter, for tests that must repeat. Default: random.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seeds = Arc::new(Mutex::new(Rng::with_seed(seed)));
        self
    }

    /// How long to wait for the next attempt, or the `outcome` label of why there is none.
    fn schedule(
        &mut self,
        attempt: Attempt,
        request: &impl RetryRequest,
    ) -> Result<RetryDelay, &'static str> {
        let not_before = match attempt {
            Attempt::NotSent { retry_after } => retry_after.unwrap_or_default(),
            Attempt::NotRun if request.is_all_or_nothing() => Duration::ZERO,
            Attempt::NotRun | Attempt::MayHaveRun if request.is_idempotent() => Duration::ZERO,
            Attempt::NotRun | Attempt::MayHaveRun => return Err("unsafe"),
            Attempt::Final => return Err("final"),
        };
        if not_before > self.longest_wait {
            return Err("too_long");
        }
        self.failures += 1;
        if self.failures >= self.attempts {
            return Err("attempts");
        }
        self.previous = self.backoff.delay(self.failures, self.previous, &mut self.rng);
        let delay = not_before.saturating_add(self.previous);
        let withdrawal = self.budget.withdraw().map_err(|_| "budget")?;
        let sleep = tokio::time::sleep(delay);
        Ok(RetryDelay { pool: self.pool.clone(), withdrawal: Some(withdrawal), sleep })
    }
}

impl<Req, Res, E> Policy<Req, Res, E> for RetryPolicy
where
    Req: RetryRequest,
    E: RetryError,
{
    type Future = RetryDelay;

    fn retry(&mut self, request: &mut Req, result: &mut Result<Res, E>) -> Option<RetryDelay> {
        let attempt = result.as_ref().err()?.attempt();
        let delay = self.schedule(attempt, request);
        delay.map_err(|outcome| retried(&self.pool, outcome)).ok()
    }

    fn clone_request(&mut self, request: &Req) -> Option<Req> {
        if self.failures == 0 {
            // tower asks for the copy before the first attempt, and again before each retry.
            self.budget.called();
            self.rng = self.seeds.lock().unwrap_or_else(PoisonError::into_inner).fork();
        }
        request.repeat()
    }
}

/// A request that may be sent again.
pub trait RetryRequest: Sized {
    /// True if sending it twice has the effect of sending it once.
    fn is_idempotent(&self) -> bool;

    /// True if either all of it is executed or nothing, as a single command is. Default true. Of several
    /// commands the first may have run although the server refused the second.
    fn is_all_or_nothing(&self) -> bool {
        true
    }

    /// A copy to send again; `None` if it cannot be copied, and is never retried.
    fn repeat(&self) -> Option<Self>;
}

impl RetryRequest for Cmd {
    /// By the server's own flag `readonly`.
    fn is_idempotent(&self) -> bool {
        is_read_only(self)
    }

    fn repeat(&self) -> Option<Self> {
        Some(self.clone())
    }
}

impl RetryRequest for Pipeline {
    /// If each of its commands is.
    fn is_idempotent(&self) -> bool {
        self.cmd_iter().all(is_read_only)
    }

    fn is_all_or_nothing(&self) -> bool {
        self.is_transaction() || self.cmd_iter().nth(1).is_none()
    }

    fn repeat(&self) -> Option<Self> {
        Some(self.clone())
    }
}

/// What an error says about the attempt that met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attempt {
    /// Nothing was sent; it may work later.
    NotSent {
        /// Not before then, where that is known.
        retry_after: Option<Duration>,
    },
    /// The server did not execute it, for a reason that passes; of several commands, the one that it
    /// speaks of.
    NotRun,
    /// It is not known whether the server executed it.
    MayHaveRun,
    /// Another attempt would end the same way.
    Final,
}

/// An error that tells whether another attempt makes sense.
///
/// Provided for [`Error`], [`redis::RedisError`], and boxed errors that are, or are caused by, one of
/// them.
pub trait RetryError {
    /// What it says.
    fn attempt(&self) -> Attempt;
}

impl RetryError for Rejection {
    fn attempt(&self) -> Attempt {
        match self {
            Self::ConnectFailed { .. } | Self::RetryBudgetExhausted { .. } | Self::Closed => {
                Attempt::Final
            }
            _ => Attempt::NotSent { retry_after: self.retry_after() },
        }
    }
}

impl<E: RetryError> RetryError for Error<E> {
    fn attempt(&self) -> Attempt {
        match self {
            Self::Rejected(rejection) => rejection.attempt(),
            Self::Inner(error) => error.attempt(),
        }
    }
}

impl RetryError for RedisError {
    fn attempt(&self) -> Attempt {
        use ServerErrorKind as Kind;
        if let Some(rejection) = rejection_in(self) {
            return rejection.attempt();
        }
        match self.kind() {
            // The server looked at it and did not run it, for a reason that passes.
            ErrorKind::Server(
                Kind::BusyLoading
                | Kind::TryAgain
                | Kind::ClusterDown
                | Kind::MasterDown
                | Kind::ReadOnly,
            ) => Attempt::NotRun,
            ErrorKind::Io | ErrorKind::ClusterConnectionNotFound => Attempt::MayHaveRun,
            _ => Attempt::Final,
        }
    }
}

impl RetryError for BoxError {
    fn attempt(&self) -> Attempt {
        for error in chain(self.as_ref()) {
            if let Some(error) = error.downcast_ref::<Error>() {
                return error.attempt();
            } else if let Some(error) = error.downcast_ref::<RedisError>() {
                return error.attempt();
            } else if let Some(rejection) = error.downcast_ref::<Rejection>() {
                return rejection.attempt();
            } else if error.is::<tower::timeout::error::Elapsed>() {
                return Attempt::MayHaveRun;
            }
        }
        Attempt::Final
    }
}

/// The wait for a retry, which holds its place in the budget.
///
/// # Cancel safety
///
/// Dropped before it is ready, it gives the retry back to the budget.
#[pin_project::pin_project(PinnedDrop)]
pub struct RetryDelay {
    pool: SharedString,
    /// `None` once it is spent.
    withdrawal: Option<Withdrawal>,
    #[pin]
    sleep: Sleep,
}

impl Future for RetryDelay {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        this.sleep.poll(cx).map(|()| {
            if let Some(withdrawal) = this.withdrawal.take() {
                withdrawal.spend();
                retried(this.pool, "retried");
            }
        })
    }
}

#[pin_project::pinned_drop]
impl PinnedDrop for RetryDelay {
    fn drop(self: Pin<&mut Self>) {
        if self.withdrawal.is_some() {
            retried(&self.pool, "cancelled");
        }
    }
}

impl fmt::Debug for RetryPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryPolicy")
            .field("backoff", &self.backoff)
            .field("budget", &self.budget)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for RetryDelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryDelay")
            .field("deadline", &self.sleep.deadline())
            .finish_non_exhaustive()
    }
}
