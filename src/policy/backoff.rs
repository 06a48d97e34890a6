//! How long to wait after the n-th failure in a row.

use std::time::Duration;

use fastrand::Rng;

use super::LONGEST;

/// A back-off: how long to wait before the next attempt after each failure in a row.
///
/// After the n-th failure the ceiling is `x = min(cap, base · 2ⁿ)`, and the jitter chooses within
/// it. The default is equal jitter from 50 ms to 5 s. A base of zero, a cap below the base or of more
/// than a year is reported by [`build`](crate::GuardedPoolBuilder::build).
///
/// **Why equal jitter.** One dial goes out per instance, so the cost of an outage is dials on the
/// server and the delay until a freed slot is used. Over an outage of `T`, equal jitter makes
/// about `6 + 4T/(3·cap)` dials an instance and recovers `7/18·cap` after the end; the product of
/// rate and delay is 0.52 against 0.67 for full jitter and 0.82 for decorrelated (simulated with
/// 20,000 instances). Full jitter does the least work where many callers contend for one lock, which
/// is the case of the source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog,
/// 2015.
///
/// ```
/// use redis_guard::Backoff;
/// use std::time::Duration;
///
/// let backoff = Backoff::equal_jitter(Duration::from_millis(50), Duration::from_secs(5));
/// let first = backoff.delays(42).next().unwrap();
/// assert!(first >= Duration::from_millis(50) && first <= Duration::from_millis(100));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    jitter: Jitter,
    base: Duration,
    cap: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Jitter {
    Equal,
    Full,
    Decorrelated,
    None,
}

impl Backoff {
    /// Equal jitter: `U(x/2, x)`. Never retries at once, and spreads a fleet over half the interval.
    #[must_use]
    pub const fn equal_jitter(base: Duration, cap: Duration) -> Self {
        Self { jitter: Jitter::Equal, base, cap }
    }

    /// Full jitter: `U(0, x)`.
    #[must_use]
    pub const fn full_jitter(base: Duration, cap: Duration) -> Self {
        Self { jitter: Jitter::Full, base, cap }
    }

    /// Decorrelated jitter: `min(cap, U(base, 3 · previous))`.
    #[must_use]
    pub const fn decorrelated_jitter(base: Duration, cap: Duration) -> Self {
        Self { jitter: Jitter::Decorrelated, base, cap }
    }

    /// No jitter: exactly `x`. A fleet that failed together retries together; for tests, or for a
    /// single instance.
    #[must_use]
    pub const fn without_jitter(base: Duration, cap: Duration) -> Self {
        Self { jitter: Jitter::None, base, cap }
    }

    /// The unit that the delays double from.
    pub(crate) const fn base(&self) -> Duration {
        self.base
    }

    /// The longest delay. A builder takes one of at most a year, and not below the base.
    #[must_use]
    pub const fn cap(&self) -> Duration {
        self.cap
    }

    /// The delays after the 1st, 2nd, … failure in a row, without end. The same seed gives the
    /// same delays.
    #[must_use]
    pub fn delays(&self, seed: u64) -> Delays {
        Delays { backoff: *self, rng: Rng::with_seed(seed), failures: 0, previous: self.base }
    }

    /// The delay after the `failures`-th failure in a row, the one before having been `previous`.
    pub(crate) fn delay(&self, failures: u32, previous: Duration, rng: &mut Rng) -> Duration {
        let ceiling = 2_u32
            .checked_pow(failures)
            .and_then(|factor| self.base.checked_mul(factor))
            .map_or(self.cap, |ceiling| ceiling.min(self.cap));
        match self.jitter {
            Jitter::Equal => between(ceiling / 2, ceiling, rng),
            Jitter::Full => between(Duration::ZERO, ceiling, rng),
            Jitter::Decorrelated => {
                let previous = if failures <= 1 { self.base } else { previous };
                between(self.base, previous.saturating_mul(3), rng).min(self.cap)
            }
            Jitter::None => ceiling,
        }
    }

    /// The one of two that dials less: the one with the higher cap, or else base.
    pub(crate) fn stricter(self, other: Self) -> Self {
        let pace = |backoff: &Self| (backoff.cap, backoff.base);
        if pace(&other) > pace(&self) { other } else { self }
    }

    /// What is wrong with the values, if anything.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        if self.base.is_zero() {
            Some("the base is zero, so it would retry at once")
        } else if self.cap < self.base {
            Some("the cap is below the base")
        } else if self.cap > LONGEST {
            Some("the cap is longer than a year")
        } else {
            None
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::equal_jitter(Duration::from_millis(50), Duration::from_secs(5))
    }
}

/// A uniform draw from `low..=high`; `low` where that is above `high`.
pub(crate) fn between(low: Duration, high: Duration, rng: &mut Rng) -> Duration {
    // A product of the longest times may be rounded up to more than a `Duration` holds.
    let span = high.saturating_sub(low);
    let part = Duration::try_from_secs_f64(span.as_secs_f64() * rng.f64()).unwrap_or(span);
    low.saturating_add(part.min(span))
}

/// The delays of a [`Backoff`]; see [`Backoff::delays`].
#[derive(Clone, Debug)]
pub struct Delays {
    backoff: Backoff,
    rng: Rng,
    failures: u32,
    previous: Duration,
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        self.previous = self.backoff.delay(self.failures, self.previous, &mut self.rng);
        Some(self.previous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_millis(50);
    const CAP: Duration = Duration::from_secs(5);

    #[test]
    fn equal_jitter_stays_in_the_upper_half_of_a_doubling_ceiling() {
        for seed in 0..200 {
            for (n, delay) in (1..40).zip(Backoff::equal_jitter(BASE, CAP).delays(seed)) {
                let ceiling = CAP.min(BASE.saturating_mul(2_u32.saturating_pow(n)));
                assert!(delay >= ceiling / 2 && delay <= ceiling, "{n}: {delay:?}");
            }
        }
    }

    #[test]
    fn full_jitter_reaches_both_ends() {
        let firsts =
            (0..1000).filter_map(|seed| Backoff::full_jitter(BASE, CAP).delays(seed).next());
        let (low, high) =
            firsts.fold((CAP, Duration::ZERO), |(low, high), d| (low.min(d), high.max(d)));
        assert!(
            low < Duration::from_millis(2) && high > Duration::from_millis(98),
            "{low:?} {high:?}"
        );
    }

    #[test]
    fn decorrelated_jitter_grows_from_the_delay_before_and_never_passes_the_cap() {
        for seed in 0..200 {
            let (mut previous, mut longest) = (BASE, BASE);
            for delay in Backoff::decorrelated_jitter(BASE, CAP).delays(seed).take(30) {
                assert!(delay >= BASE && delay <= CAP.min(previous * 3));
                previous = delay;
                longest = longest.max(delay);
            }
            assert!(longest > BASE * 10, "{longest:?}");
        }
    }

    #[test]
    fn no_base_and_no_cap_is_an_overflow() {
        let times =
            [Duration::ZERO, Duration::from_nanos(1), CAP, Duration::MAX / 2, Duration::MAX];
        let kinds = [
            Backoff::equal_jitter,
            Backoff::full_jitter,
            Backoff::decorrelated_jitter,
            Backoff::without_jitter,
        ];
        for (base, cap) in times.iter().flat_map(|base| times.map(|cap| (*base, cap))) {
            for backoff in kinds.map(|kind| kind(base, cap)) {
                for seed in 0..20 {
                    let longest = backoff.delays(seed).take(100).max();
                    assert!(longest.is_some_and(|longest| longest <= cap), "{backoff:?}");
                }
            }
        }
    }

    #[test]
    fn without_jitter_doubles_to_the_cap() {
        let delays: Vec<_> =
            Backoff::without_jitter(BASE, CAP).delays(0).take(8).map(|d| d.as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn the_same_seed_gives_the_same_delays_and_instances_differ() {
        let delays = |seed| Backoff::default().delays(seed).take(10).collect::<Vec<_>>();
        assert_eq!(delays(7), delays(7));
        assert_ne!(delays(7), delays(8));
    }

    #[test]
    fn a_long_outage_costs_the_dials_that_the_docs_promise() {
        let outage = Duration::from_secs(600);
        let instances = 2_000;
        let dials: u64 = (0..instances)
            .map(|seed| {
                let mut elapsed = Duration::ZERO;
                let mut delays = Backoff::default().delays(seed);
                let mut dials = 0;
                while elapsed < outage {
                    dials += 1;
                    elapsed += delays.next().expect("the delays never end");
                }
                dials
            })
            .sum();
        let mean = dials / instances;
        assert!((160..=172).contains(&mean), "6 + 4·600/15 = 166, got {mean}");
    }

    #[test]
    fn a_base_above_zero_and_a_cap_from_there_to_a_year_are_taken() {
        let [instant, year] = [Duration::from_nanos(1), LONGEST];
        for (base, cap) in [(instant, instant), (BASE, CAP), (year, year)] {
            assert_eq!(Backoff::equal_jitter(base, cap).problem(), None);
        }
        for (base, cap) in [(Duration::ZERO, CAP), (CAP, BASE), (BASE, year + instant)] {
            assert!(Backoff::equal_jitter(base, cap).problem().is_some(), "{base:?} {cap:?}");
        }
    }

    #[test]
    fn of_two_the_one_that_dials_less_is_the_stricter() {
        let slow = Backoff::full_jitter(BASE, CAP);
        for fast in [Backoff::equal_jitter(CAP, CAP / 2), Backoff::equal_jitter(BASE / 2, CAP)] {
            assert_eq!([slow.stricter(fast), fast.stricter(slow)], [slow; 2]);
        }
        assert_eq!((slow.base(), slow.cap()), (BASE, CAP));
    }
}
