//! What this process needs: how many connections its callers would keep busy.

use std::time::Duration;

use tokio::time::Instant;

use super::real;

/// How long a window is. A few of them fit into one heartbeat's life, and hundreds of requests into
/// each, unless the process is so idle that its demand is nobody's concern.
const WINDOW: Duration = Duration::from_secs(1);

/// The weight of the newest window: demand that lasts three seconds counts for two thirds.
const WEIGHT: f64 = 0.3;

/// What the pool has counted up to now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Calls that asked for a connection so far, whatever became of them.
    pub arrivals: u64,
    /// Connections lent so far.
    pub acquired: u64,
    /// Connections in use now.
    pub in_use: usize,
    /// Callers who wait now.
    pub waiting: usize,
    /// The most that were in use or waited for at once since the last observation.
    pub peak: usize,
}

/// The demand of one process, by Little's law: callers that arrive at a rate λ and keep a
/// connection for W each occupy λ·W connections on average (J. D. C. Little, "A Proof for the
/// Queuing Formula L = λW", Operations Research 9, 1961).
///
/// W is the connections in use over those lent; λ counts every call, those turned away too. So what
/// is offered shows although a limit lets only a part of it in. Callers who wait until they are served
/// are not turned away: those count as the queue, for as much as is in use, so that what is asked
/// for doubles at most with each look. The peak is not the demand: shared
/// out by peaks, a fleet with uneven demand served 55 % of its calls, by means 99.8 % (simulated).
#[derive(Debug)]
pub struct Demand {
    /// When the window began, and the counts then.
    start: (Instant, Load),
    last: (Instant, Load),
    /// ∫ in_use dt and ∫ waiting dt since the window began, in seconds.
    in_use_seconds: f64,
    waiting_seconds: f64,
    /// The highest concurrency of this window and of the two before.
    peaks: [usize; 3],
    /// The moving average over the windows; in the first, what it shows so far.
    offered: f64,
    /// A window has ended.
    settled: bool,
}

impl Demand {
    /// Starts to observe.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            start: (now, Load::default()),
            last: (now, Load::default()),
            in_use_seconds: 0.0,
            waiting_seconds: 0.0,
            peaks: [0; 3],
            offered: 0.0,
            settled: false,
        }
    }

    /// Takes the counts in. A few times a second is enough; any time is right.
    pub fn observe(&mut self, now: Instant, load: Load) {
        let elapsed = now.saturating_duration_since(self.last.0).as_secs_f64();
        let last = self.last.1;
        self.in_use_seconds += elapsed * (real(last.in_use) + real(load.in_use)) / 2.0;
        self.waiting_seconds += elapsed * (real(last.waiting) + real(load.waiting)) / 2.0;
        self.last = (now, load);
        self.peaks[0] = self.peaks[0].max(load.peak).max(load.in_use);
        let window = now.saturating_duration_since(self.start.0);
        if !self.settled {
            self.offered = self.measured(window, load);
        }
        if window < WINDOW {
            return;
        }
        self.offered += WEIGHT * (self.measured(window, load) - self.offered);
        self.settled = true;
        self.start = (now, load);
        (self.in_use_seconds, self.waiting_seconds) = (0.0, 0.0);
        self.peaks.rotate_right(1);
        self.peaks[0] = load.in_use;
    }

    /// λ·W in this window: the mean of what was in use, times how many called for each that was
    /// served. Never above the peak, which a mean cannot pass.
    fn measured(&self, window: Duration, load: Load) -> f64 {
        let peak = real(self.peaks[0]);
        let arrivals = load.arrivals.saturating_sub(self.start.1.arrivals);
        let acquired = load.acquired.saturating_sub(self.start.1.acquired);
        let seconds = window.as_secs_f64();
        if arrivals == 0 || seconds <= 0.0 {
            // Nobody calls: what is held for long is still needed.
            return real(load.in_use + load.waiting.min(load.in_use)).min(peak);
        }
        if acquired == 0 {
            return peak;
        }
        let unserved = (ratio(arrivals) / ratio(acquired)).max(1.0);
        let queued = (1.0 + self.waiting_seconds / self.in_use_seconds.max(1e-9)).min(2.0);
        (self.in_use_seconds / seconds * unserved.max(queued)).min(peak)
    }

    /// The average concurrency offered.
    #[must_use]
    pub fn offered(&self) -> f64 {
        self.offered
    }

    /// What serves the mean and its ordinary fluctuation: one standard deviation above the mean of
    /// a Poisson distribution. A short queue covers the rest.
    #[must_use]
    pub fn base(&self) -> usize {
        self.above_mean(1.0)
    }

    /// Two standard deviations above the mean: enough for 98 % of all moments.
    #[must_use]
    pub fn generous(&self) -> usize {
        self.above_mean(2.0)
    }

    /// The highest concurrency of the last three windows.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.peaks.into_iter().max().unwrap_or(0)
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "finite, not negative, and never above the peak by more than twice its root"
    )]
    fn above_mean(&self, deviations: f64) -> usize {
        (self.offered + deviations * self.offered.sqrt()).ceil() as usize
    }
}

#[allow(clippy::cast_precision_loss, reason = "for a quotient, the leading digits will do")]
fn ratio(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENTH: Duration = Duration::from_millis(100);

    /// `seconds` of a steady load: calls a second, the share of them served, connections in use.
    fn steady(seconds: u32, calls: u64, served: f64, in_use: usize) -> Demand {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        for tick in 1..=seconds * 10 {
            let arrivals = calls * u64::from(tick) / 10;
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of a small count"
            )]
            let acquired = (ratio(arrivals) * served) as u64;
            let load = Load { arrivals, acquired, in_use, waiting: 0, peak: in_use * 4 };
            demand.observe(start + TENTH * tick, load);
        }
        demand
    }

    #[test]
    fn a_steady_load_offers_what_is_in_use() {
        let demand = steady(10, 2_000, 1.0, 16);
        assert!((demand.offered() - 16.0).abs() < 0.5, "{}", demand.offered());
        assert_eq!((demand.base(), demand.generous(), demand.peak()), (20, 24, 64));
    }

    #[test]
    fn calls_that_were_turned_away_are_demand_too() {
        let demand = steady(10, 2_000, 0.5, 16);
        assert!((demand.offered() - 32.0).abs() < 1.0, "{}", demand.offered());
    }

    #[test]
    fn callers_who_wait_are_demand_too_and_double_it_at_most() {
        let demand = |waiting| {
            let (start, mut demand) = (Instant::now(), Demand::new(Instant::now()));
            for tick in 1..=30 {
                let calls = u64::from(tick) * 10;
                let load = Load { arrivals: calls, acquired: calls, in_use: 4, waiting, peak: 50 };
                demand.observe(start + TENTH * tick, load);
            }
            demand.offered()
        };
        assert!((demand(1) - 5.0).abs() < 0.25, "{}", demand(1));
        assert!((demand(2) - 6.0).abs() < 0.5, "{}", demand(2));
        assert!((demand(40) - 8.0).abs() < 0.5, "{}", demand(40));
    }

    #[test]
    fn what_lasts_three_seconds_counts_for_two_thirds() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        for tick in 1..=80 {
            let calls = u64::from(tick) * 10;
            let in_use = if tick <= 50 { 10 } else { 40 };
            let load = Load { arrivals: calls, acquired: calls, in_use, waiting: 0, peak: in_use };
            demand.observe(start + TENTH * tick, load);
        }
        assert!((demand.offered() - 30.0).abs() < 1.0, "{}", demand.offered());
    }

    #[test]
    fn what_is_held_and_waited_for_is_needed_although_nobody_calls() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        let load = Load { in_use: 3, waiting: 2, peak: 10, ..Load::default() };
        demand.observe(start + TENTH, load);
        assert!((demand.offered() - 5.0).abs() < 1e-6, "{}", demand.offered());
    }

    #[test]
    fn the_first_tenth_of_a_second_already_tells() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        let load = Load { arrivals: 30, acquired: 5, in_use: 4, waiting: 0, peak: 40 };
        demand.observe(start + TENTH, load);
        assert!(demand.base() >= 12, "{demand:?}");
    }

    #[test]
    fn a_peak_is_forgotten_after_three_windows_and_demand_decays() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        let mut load = Load { arrivals: 1_000, acquired: 1_000, in_use: 50, waiting: 0, peak: 90 };
        demand.observe(start + WINDOW, load);
        assert_eq!(demand.peak(), 90);
        (load.in_use, load.peak) = (0, 0);
        for second in 2..=4 {
            demand.observe(start + WINDOW * second, load);
        }
        assert_eq!(demand.peak(), 0);
        assert!(demand.offered() < 13.0, "{}", demand.offered());
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_counted_demand_is_finite_and_never_far_above_the_peak(
            loads in proptest::collection::vec(
                (proptest::num::u64::ANY, proptest::num::u64::ANY, 0..100_000_usize, 0..100_000_usize, 0..5_000_u64),
                1..50,
            )
        ) {
            let mut now = Instant::now();
            let mut demand = Demand::new(now);
            let mut highest = 0;
            for (arrivals, acquired, in_use, peak, ms) in loads {
                now += Duration::from_millis(ms);
                let waiting = peak.saturating_sub(in_use);
                demand.observe(now, Load { arrivals, acquired, in_use, waiting, peak });
                highest = highest.max(peak).max(in_use);
                proptest::prop_assert!(demand.offered().is_finite());
                proptest::prop_assert!(demand.offered() <= real(highest) + 1e-6);
                proptest::prop_assert!(demand.peak() <= highest);
            }
        }
    }
}
