//! Whether the server has become a replica: when to look for the primary, and when it is found.
//!
//! A primary that is demoted closes nothing: its clients go on, and each of their writes is answered
//! READONLY. Pure: `now` is passed in.

use std::time::Duration;

use tokio::time::Instant;

/// How long after the last sign of it the primary is looked for at the gate's pace; after that, with
/// nobody who writes, at the pace of the sweep.
const URGENT_FOR: Duration = Duration::from_secs(60);

/// How long after a primary was found a sign of the contrary is not believed, doubled each time that one
/// comes soon after: a server that answers READONLY and calls itself a primary must not have all its
/// connections replaced for ever.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Demotion {
    /// The last sign, until a primary is found.
    suspected: Option<Instant>,
    /// Signs are not believed until then.
    rests_until: Option<Instant>,
    rest: Duration,
}

impl Demotion {
    /// There is a sign that the server is a replica; true if the connections are to be replaced for it.
    pub(super) fn suspect(&mut self, now: Instant) -> bool {
        if let Some(last) = self.suspected.replace(now) {
            return now > last + URGENT_FOR;
        }
        let Some(until) = self.rests_until else { return true };
        if now < until {
            self.suspected = None;
            return false;
        }
        if now > until + LONGEST_REST {
            self.rest = Duration::ZERO;
        }
        true
    }

    /// No dial has found a primary since the last sign.
    pub(super) fn is_suspected(&self) -> bool {
        self.suspected.is_some()
    }

    /// The next dial is worth more than the pace of those that nobody waits for.
    pub(super) fn is_urgent(&self, now: Instant) -> bool {
        self.suspected.is_some_and(|last| now <= last + URGENT_FOR)
    }

    /// A dial has found a primary, or a server that does not say what it is.
    pub(super) fn found_primary(&mut self, now: Instant) {
        if self.suspected.take().is_some() {
            self.rest = (self.rest * 2).clamp(FIRST_REST, LONGEST_REST);
            self.rests_until = Some(now + self.rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_sign_counts_and_those_that_follow_do_not() {
        let (mut demotion, now) = (Demotion::default(), Instant::now());
        assert!(demotion.suspect(now));
        assert!(!demotion.suspect(now + Duration::from_millis(1)));
        assert!(demotion.is_suspected() && demotion.is_urgent(now + URGENT_FOR));
    }

    #[tokio::test(start_paused = true)]
    async fn one_after_a_while_of_silence_counts_again() {
        let (mut demotion, now) = (Demotion::default(), Instant::now());
        assert!(demotion.suspect(now));
        let later = now + URGENT_FOR + Duration::from_secs(1);
        assert!(!demotion.is_urgent(later));
        assert!(demotion.suspect(later));
    }

    #[tokio::test(start_paused = true)]
    async fn a_primary_that_answers_readonly_is_replaced_more_and_more_rarely() {
        let (mut demotion, start) = (Demotion::default(), Instant::now());
        let mut now = start;
        let mut rounds = 0;
        while now < start + Duration::from_secs(600) {
            if demotion.suspect(now) {
                rounds += 1;
                demotion.found_primary(now);
                assert!(!demotion.is_suspected());
            }
            now += Duration::from_millis(100);
        }
        assert!((10..=16).contains(&rounds), "{rounds}: after 1, 2, 4 … 60 s");
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_failover_is_believed_at_once() {
        let (mut demotion, mut now) = (Demotion::default(), Instant::now());
        for _ in 0..5 {
            assert!(demotion.suspect(now));
            demotion.found_primary(now);
            now += Duration::from_secs(200);
        }
        assert!(demotion.suspect(now));
        demotion.found_primary(now);
        assert!(demotion.suspect(now + Duration::from_millis(1_001)), "the rest is short again");
    }
}
