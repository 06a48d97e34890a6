//! How many retries the calls of the last seconds pay for.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{LONGEST, real};
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
    /// spend what a long quiet time saved. At least 10 ms and at most a year; what is outside is taken
    /// to the nearer end.
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window.clamp(Duration::from_millis(10), LONGEST);
        // What the old slices counted was of another length.
        self.ledger = Arc::new(Mutex::new(Window::new(Instant::now())));
        self
    }

    /// Notes a call, the first attempt.
    pub fn called(&self) {
        let mut window = self.slide(Instant::now());
        window.slices[0].calls = window.slices[0].calls.saturating_add(1);
    }

    /// Takes a retry that goes out at once, for a loop of one's own.
    ///
    /// # Errors
    ///
    /// [`RetryBudgetExhausted`](Rejection::RetryBudgetExhausted) if there is none to be had. Its
    /// `retry_after` is when there is, should nobody call or retry meanwhile. A budget that has room only
    /// while there are calls (`per_second` times the window is less than one retry) may never have any
    /// without them; then it is the whole window.
    pub fn try_retry(&self) -> Result<(), Rejection> {
        self.withdraw().map(Withdrawal::spend)
    }

    /// Takes a retry that goes out later, or not at all.
    pub(crate) fn withdraw(&self) -> Result<Withdrawal, Rejection> {
        let now = Instant::now();
        let mut window = self.slide(now);
        if !self.has_room(&window, 0) {
            let retry_after = self.room_in(&window, now);
            return Err(Rejection::RetryBudgetExhausted { retry_after });
        }
        window.slices[0].retries = window.slices[0].retries.saturating_add(1);
        let slice = window.newest;
        drop(window);
        Ok(Withdrawal { budget: self.clone(), slice: Some(slice) })
    }

    /// Whether there is room for one more retry once the `gone` oldest slices have left the window.
    fn has_room(&self, window: &Window, gone: usize) -> bool {
        let left = &window.slices[..SLICES - gone];
        let sum =
            |count: fn(&Slice) -> usize| left.iter().map(count).fold(0, usize::saturating_add);
        let (calls, retries) = (sum(|slice| slice.calls), sum(|slice| slice.retries));
        let allowed = self.share * real(calls) + self.per_second * self.window.as_secs_f64();
        real(retries) + 1.0 <= allowed
    }

    /// How long it takes from `now` until there is room, if nobody calls or retries meanwhile. Not
    /// always when the first retries leave: calls that leave lower what is allowed.
    fn room_in(&self, window: &Window, now: Instant) -> Duration {
        let Some(steps) = (1..=SLICES).find(|gone| self.has_room(window, *gone)) else {
            return self.window;
        };
        let steps = u64::try_from(steps).unwrap_or(u64::MAX);
        let then = u128::from(window.newest.saturating_add(steps)) * self.slice().as_nanos();
        let wait = then.saturating_sub(now.duration_since(window.start).as_nanos());
        Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
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
#[derive(Clone)]
struct Window {
    start: Instant,
    /// The number of the newest slice, from the start on.
    newest: u64,
    slices: [Slice; SLICES],
}

#[derive(Clone, Copy, Default)]
struct Slice {
    calls: usize,
    retries: usize,
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

    /// A budget with the same past, to try something on.
    fn copy(budget: &RetryBudget) -> RetryBudget {
        RetryBudget { ledger: Arc::new(Mutex::new(budget.lock().clone())), ..budget.clone() }
    }

    fn retry_after(budget: &RetryBudget) -> Duration {
        let refused = budget.try_retry().unwrap_err();
        refused.retry_after().expect("the refusal says when")
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_says_when_the_first_retries_leave_the_window() {
        let budget = RetryBudget::default();
        tokio::time::advance(Duration::from_millis(2_500)).await;
        assert_eq!(taken(&budget), 20);
        tokio::time::advance(Duration::from_secs(3)).await;
        // Taken between 2 s and 3 s, gone when the eleventh step after it begins.
        assert_eq!(retry_after(&budget), Duration::from_millis(7_500));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_leave_the_window_take_their_share_of_the_allowance_along() {
        let budget = RetryBudget::default().per_second(0.1);
        (0..20).for_each(|_| budget.called());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(taken(&budget), 5, "a fifth of 20 calls, and one");
        // The calls leave one step before the retries do, and nothing is gained by that.
        assert_eq!(retry_after(&budget), Duration::from_secs(11));
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_that_would_never_have_room_names_its_window() {
        let budget = RetryBudget::default().per_second(0.0);
        assert_eq!(retry_after(&budget), Duration::from_secs(10));
        let slow = RetryBudget::default().per_second(0.1).window(Duration::from_secs(5));
        assert_eq!(retry_after(&slow), Duration::from_secs(5));
    }

    /// So many calls, so many retries that are tried for, and so long until what is next.
    type Happening = (usize, usize, u64);

    /// Lives through `past`, and asks when there is room again: then there is, and not a step before.
    async fn hold_to_its_word(budget: RetryBudget, past: &[Happening]) {
        for (calls, retries, ms) in past {
            (0..*calls).for_each(|_| budget.called());
            let _granted = (0..*retries).filter(|_| budget.try_retry().is_ok()).count();
            tokio::time::advance(Duration::from_millis(*ms)).await;
        }
        taken(&budget);
        let (step, refused) = (budget.slice(), copy(&budget));
        let wait = retry_after(&budget);
        if budget.per_second * budget.window.as_secs_f64() < 1.0 && wait == budget.window {
            // Nothing may ever come of it.
            return;
        }
        let early = wait.saturating_sub(step);
        tokio::time::advance(early).await;
        assert!(early.is_zero() || copy(&refused).try_retry().is_err(), "a step before {wait:?}");
        tokio::time::advance(wait - early).await;
        assert!(refused.try_retry().is_ok(), "after {wait:?}");
    }

    proptest::proptest! {
        #[test]
        fn there_is_room_when_the_refusal_says_and_not_a_step_before(
            share in 0..=10_u32,
            tenths_a_second in 0..=30_u32,
            window_ms in 10..20_000_u64,
            past in proptest::collection::vec((0..40_usize, 0..10_usize, 0..4_000_u64), 0..25),
        ) {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let budget = RetryBudget::default()
                    .share(f64::from(share) / 10.0)
                    .per_second(f64::from(tenths_a_second) / 10.0)
                    .window(Duration::from_millis(window_ms));
                hold_to_its_word(budget, &past).await;
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn extreme_settings_are_no_overflow() {
        let forever = RetryBudget::default().window(Duration::MAX).per_second(0.0);
        assert!(retry_after(&forever) <= Duration::from_secs(366 * 24 * 60 * 60));
        assert_eq!(taken(&RetryBudget::default().window(Duration::ZERO).per_second(1e3)), 10);
        let much = RetryBudget::default().per_second(f64::MAX).window(Duration::MAX);
        much.try_retry().unwrap();
        much.lock().slices = [Slice { calls: usize::MAX, retries: usize::MAX }; SLICES];
        much.called();
        let _either = much.try_retry();
    }

    #[test]
    fn rubbish_settings_are_taken_to_the_nearer_end() {
        let budget = RetryBudget::default().share(f64::NAN).per_second(f64::INFINITY);
        (0..100).for_each(|_| budget.called());
        assert_eq!(taken(&budget), 0);
        assert_eq!(taken(&RetryBudget::default().share(7.0).per_second(-1.0)), 0);
    }
}
