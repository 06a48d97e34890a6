//! How many retries the calls of the last seconds pay for.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::Rejection;

/// The window slides in steps of a tenth.
const STEPS: usize = 10;

/// The steps that are kept: the newest is not over yet, so one more makes a whole window of them.
const SLICES: usize = STEPS + 1;

/// A budget for retries: over a window of 10 s, 20 % of the calls and 2 a second on top.
///
/// Retries multiply the load on a server that fails. A budget bounds the factor whatever the number of
/// attempts that each caller may make: 1.2 at high load, and a few a second at low load, where 20 % of
/// nothing would mean never. A retry is taken from it when it is scheduled, not when it is sent, so
/// that a herd of delayed retries cannot overdraw it; one that is cancelled meanwhile is given back.
///
/// Clones share it: one for all callers of one server. The idea is Finagle's `RetryBudget` (10 s,
/// 20 %, 10 a second there); 2 a second, because a fleet multiplies it.
///
/// ```
/// use redis_guard::RetryBudget;
///
/// let careful = RetryBudget::default().share(0.1).per_second(1.0);
/// # let _ = careful;
/// ```
#[derive(Clone)]
pub struct RetryBudget {
    share: f64,
    per_second: f64,
    window: Duration,
    ledger: Arc<Mutex<Window>>,
}

impl Default for RetryBudget {
    fn default() -> Self {
        let ledger = Arc::new(Mutex::new(Window::new(Instant::now())));
        Self { share: 0.2, per_second: 2.0, window: Duration::from_secs(10), ledger }
    }
}

impl RetryBudget {
    /// Retries per call, at most. Default 0.2. What is no number from 0 to 1 is taken to the nearer
    /// end.
    #[must_use]
    pub fn share(mut self, share: f64) -> Self {
        self.share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
        self
    }

    /// Retries a second that are allowed whatever the number of calls. Default 2. What is negative or
    /// no number counts as none.
    #[must_use]
    pub fn per_second(mut self, retries: f64) -> Self {
        self.per_second = if retries.is_finite() { retries.max(0.0) } else { 0.0 };
        self
    }

    /// Over how long the calls and retries are counted. Default 10 s: longer lets a burst of retries
    /// spend what a long quiet time saved. At least 10 ms.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window.max(Duration::from_millis(10));
        // What the old slices counted was of another length.
        self.ledger = Arc::new(Mutex::new(Window::new(Instant::now())));
        self
    }

    /// Notes a call, the first attempt.
    pub fn called(&self) {
        self.slide(Instant::now()).slices[0].calls += 1;
    }

    /// Takes a retry that goes out at once, for a loop of one's own.
    ///
    /// # Errors
    ///
    /// [`RetryBudgetExhausted`](Rejection::RetryBudgetExhausted) if there is none to be had.
    pub fn try_retry(&self) -> Result<(), Rejection> {
        self.withdraw().map(Withdrawal::spend)
    }

    /// Takes a retry that goes out later, or not at all.
    pub(crate) fn withdraw(&self) -> Result<Withdrawal, Rejection> {
        let now = Instant::now();
        let mut window = self.slide(now);
        let (calls, retries) = window
            .slices
            .iter()
            .fold((0, 0), |(calls, retries), slice| (calls + slice.calls, retries + slice.retries));
        let allowed = self.share * f64::from(calls) + self.per_second * self.window.as_secs_f64();
        if f64::from(retries) + 1.0 > allowed {
            return Err(Rejection::RetryBudgetExhausted { retry_after: self.slice() });
        }
        window.slices[0].retries += 1;
        let slice = window.newest;
        drop(window);
        Ok(Withdrawal { budget: self.clone(), slice: Some(slice) })
    }

    fn slice(&self) -> Duration {
        self.window / u32::try_from(STEPS).unwrap_or(u32::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The window, up to `now`.
    fn slide(&self, now: Instant) -> MutexGuard<'_, Window> {
        let mut window = self.lock();
        let newest = now.duration_since(window.start).as_nanos() / self.slice().as_nanos();
        let newest = u64::try_from(newest).unwrap_or(u64::MAX);
        let steps = usize::try_from(newest.saturating_sub(window.newest)).unwrap_or(SLICES);
        if steps > 0 {
            let steps = steps.min(SLICES);
            window.slices.rotate_right(steps);
            window.slices[..steps].fill(Slice::default());
            window.newest = newest;
        }
        window
    }
}

/// The slices of the window, the newest first.
struct Window {
    start: Instant,
    /// The number of the newest slice, from the start on.
    newest: u64,
    slices: [Slice; SLICES],
}

#[derive(Clone, Copy, Default)]
struct Slice {
    calls: u32,
    retries: u32,
}

impl Window {
    fn new(start: Instant) -> Self {
        Self { start, newest: 0, slices: [Slice::default(); SLICES] }
    }
}

/// A retry that was taken from a budget, and is given back unless it is spent.
pub(crate) struct Withdrawal {
    budget: RetryBudget,
    /// The number of the slice that it was taken from; `None` once it is spent.
    slice: Option<u64>,
}

impl Withdrawal {
    /// The retry goes out.
    pub(crate) fn spend(mut self) {
        self.slice = None;
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        let Some(slice) = self.slice else { return };
        let mut window = self.budget.lock();
        let age = usize::try_from(window.newest.saturating_sub(slice)).unwrap_or(SLICES);
        if let Some(slice) = window.slices.get_mut(age) {
            slice.retries = slice.retries.saturating_sub(1);
        }
    }
}

impl fmt::Debug for RetryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { share, per_second, window, ledger: _ } = self;
        f.debug_struct("RetryBudget")
            .field("share", share)
            .field("per_second", per_second)
            .field("window", window)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Withdrawal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Withdrawal").field("spent", &self.slice.is_none()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budget: &RetryBudget) -> usize {
        std::iter::from_fn(|| budget.try_retry().ok()).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_fifth_of_the_calls_and_two_a_second() {
        let budget = RetryBudget::default();
        assert_eq!(taken(&budget), 20);
        (0..100).for_each(|_| budget.called());
        assert_eq!(taken(&budget), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_is_there_again_after_the_window() {
        let budget = RetryBudget::default();
        assert_eq!(taken(&budget), 20);
        tokio::time::advance(Duration::from_millis(9_900)).await;
        assert_eq!(taken(&budget), 0);
        tokio::time::advance(Duration::from_millis(1_200)).await;
        assert_eq!(taken(&budget), 20);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(taken(&budget), 20, "a quiet hour saves nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_that_is_cancelled_is_given_back_to_where_it_was_taken() {
        let budget = RetryBudget::default();
        let early = budget.withdraw().unwrap();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(taken(&budget), 19);
        drop(early);
        assert_eq!(taken(&budget), 1);
        let late = budget.withdraw();
        assert!(late.is_err_and(|rejection| rejection.retry_after().is_some()));
    }

    #[tokio::test(start_paused = true)]
    async fn clones_share_it() {
        let budget = RetryBudget::default().per_second(0.1);
        assert_eq!(taken(&budget.clone()) + taken(&budget), 1);
    }

    #[test]
    fn rubbish_settings_are_taken_to_the_nearer_end() {
        let budget = RetryBudget::default().share(f64::NAN).per_second(f64::INFINITY);
        (0..100).for_each(|_| budget.called());
        assert_eq!(taken(&budget), 0);
        assert_eq!(taken(&RetryBudget::default().share(7.0).per_second(-1.0)), 0);
    }
}
