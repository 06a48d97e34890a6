//! How long a subscriber's connection may be silent.

use std::time::Duration;

use tokio::time::Instant;

/// Into how many turns the time is cut: the rest of the one in which the last byte came, one of silence,
/// and two in which the server is asked.
const TURNS: u32 = 4;

/// How many silent turns in a row are death.
const DEAD: u32 = TURNS - 1;

/// Counts turns of silence.
///
/// It counts turns and not time, because a turn that ends late, for the process was stopped, or nobody
/// listened, says no more than any other: the server has to stay silent through two turns after it was
/// asked.
#[derive(Debug)]
pub(super) struct Silence {
    received: u64,
    silent_turns: u32,
    turn_ends: Instant,
}

/// What a turn has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Heard,
    /// Nothing was heard: ask.
    Ask,
    Dead,
}

impl Silence {
    pub(super) fn new(now: Instant, link_timeout: Duration) -> Self {
        Self { received: 0, silent_turns: 0, turn_ends: now + link_timeout / TURNS }
    }

    pub(super) fn turn_ends(&self) -> Instant {
        self.turn_ends
    }

    /// A turn has ended, with so many bytes received so far.
    pub(super) fn turn(&mut self, received: u64, now: Instant, link_timeout: Duration) -> Turn {
        self.turn_ends = now + link_timeout / TURNS;
        if std::mem::replace(&mut self.received, received) != received {
            self.silent_turns = 0;
            return Turn::Heard;
        }
        self.silent_turns += 1;
        if self.silent_turns < DEAD { Turn::Ask } else { Turn::Dead }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD_AFTER: Duration = Duration::from_secs(20);

    /// What the turns come to, given how many bytes were received by the end of each.
    fn turns(received: &[u64]) -> Vec<Turn> {
        let mut silence = Silence::new(Instant::now(), DEAD_AFTER);
        let turn = |total: &u64| silence.turn(*total, silence.turn_ends(), DEAD_AFTER);
        received.iter().map(turn).collect()
    }

    #[test]
    fn one_that_answers_is_asked_every_other_turn() {
        use Turn::{Ask, Heard};
        assert_eq!(turns(&[1, 1, 2, 2, 3]), [Heard, Ask, Heard, Ask, Heard]);
    }

    #[test]
    fn one_that_does_not_answer_is_asked_twice() {
        use Turn::{Ask, Dead, Heard};
        assert_eq!(turns(&[1, 1, 1, 1]), [Heard, Ask, Ask, Dead]);
    }

    #[test]
    fn death_is_told_within_the_time() {
        let connected = Instant::now();
        let mut silence = Silence::new(connected, DEAD_AFTER);
        // The last byte came just after the connect.
        let died = loop {
            let now = silence.turn_ends();
            if silence.turn(1, now, DEAD_AFTER) == Turn::Dead {
                break now;
            }
        };
        assert_eq!(died, connected + DEAD_AFTER);
    }

    #[test]
    fn a_turn_that_ends_late_is_one_turn() {
        let mut silence = Silence::new(Instant::now(), DEAD_AFTER);
        let late = silence.turn_ends() + 100 * DEAD_AFTER;
        assert_eq!(silence.turn(0, late, DEAD_AFTER), Turn::Ask);
        assert_eq!(silence.turn_ends(), late + DEAD_AFTER / TURNS);
    }
}
