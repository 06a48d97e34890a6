//! When the pool was last swept: a sweep that is late by seconds shows that the whole process stood
//! still (stopped, frozen, a laptop asleep), and the server may have closed anything meanwhile.
//!
//! Pure: the times are passed in.

use std::time::{Duration, Instant, SystemTime};

/// How long after a sweep, of which there is one a second at least, the next one is late: no load that a
/// service can live with delays a task by so much.
const LATE: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Sweeps {
    /// From when on the next one is late: compared, and not computed, on the path of every lease.
    late_from: Instant,
    /// The clock on the wall goes on while a machine sleeps, and the other one does not.
    wall: SystemTime,
}

impl Sweeps {
    pub(super) fn new(now: Instant, wall: SystemTime) -> Self {
        Self { late_from: now + LATE, wall }
    }

    /// Whether the process has stood still since the last sweep.
    pub(super) fn are_late(&self, now: Instant) -> bool {
        now >= self.late_from
    }

    /// Notes a sweep, or that a late one was made up for; whether it was late.
    pub(super) fn swept(&mut self, now: Instant, wall: SystemTime) -> bool {
        let slept = wall.duration_since(self.wall).is_ok_and(|slept| slept >= LATE);
        let late = self.are_late(now) || slept;
        // Never backwards: a test's clock may be ahead.
        (self.late_from, self.wall) = (self.late_from.max(now + LATE), wall);
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_late_by_either_clock_and_only_once() {
        let (now, wall) = (tokio::time::Instant::now().into_std(), SystemTime::UNIX_EPOCH);
        let mut sweeps = Sweeps::new(now, wall);
        let second = Duration::from_secs(1);
        assert!(!sweeps.swept(now + second, wall + second));
        assert!(!sweeps.are_late(now + 2 * second) && sweeps.are_late(now + 8 * second));
        assert!(sweeps.swept(now + 8 * second, wall + 2 * second), "it was stopped");
        assert!(!sweeps.are_late(now + 9 * second));
        assert!(sweeps.swept(now + 9 * second, wall + 900 * second), "the machine slept");
        assert!(!sweeps.swept(now + 10 * second, wall), "somebody has set the clock");
        assert!(!sweeps.swept(now, wall + second), "a clock is behind");
    }
}
