//! Keeping a set going: which sentinel is dialed, asked and listened to.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use redis::RedisError;
use tokio::time::Instant;

use super::Sentinels;
use super::link::Link;
use crate::server::gate::{Approval, Decision};
use crate::telemetry::shielded;
use crate::vocabulary::{DialFailure, Outcome};

/// How long a sentinel has to let us in, and again to answer, before the next one is asked: some round
/// trips on any network but the slowest. Doubled after a round in which none answered, up to the connect
/// timeout.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often everything is asked anew although nothing was published, ± 25 %: what is changed by hand is
/// not published, and a sentinel whose machine is gone says nothing. Short beside the seconds that
/// sentinels take to find that a master is down; of a thousand processes each of three sentinels is then
/// asked 170 times a second.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// How often who keeps a set going shows that it does, and after how long another one takes over: a
/// runtime may be blocked for a moment, and some are polled only now and then.
const SHOWS: Duration = Duration::from_secs(1);
const ABSENT: Duration = Duration::from_secs(3);

impl Sentinels {
    /// Keeps the set going for as long as the future is polled. One at a time does; the next one takes over
    /// when that is dropped, or not polled any more.
    pub(crate) async fn listen(&self) {
        loop {
            let shift = self.take_over().await;
            tokio::select! {
                biased;
                () = shift.over() => {}
                () = self.keep_going() => {}
            }
        }
    }

    /// Waits until nobody keeps it going.
    async fn take_over(&self) -> Shift<'_> {
        loop {
            let mut vacant = pin!(self.vacant.notified());
            vacant.as_mut().enable();
            {
                let (mut listener, now) = (self.listener(), Instant::now());
                if listener.seen.is_none_or(|seen| now >= seen + ABSENT) {
                    listener.number += 1;
                    listener.seen = Some(now);
                    return Shift { set: self, number: listener.number };
                }
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(SHOWS) => {}
                () = vacant => {}
            }
        }
    }

    async fn keep_going(&self) {
        let mut patience = PATIENCE.min(self.dialer.connect_timeout);
        loop {
            let began = Instant::now();
            if let Some(mut connected) = self.connect(patience).await {
                while connected.goes_on().await {}
                continue;
            }
            self.learn(|known| known.nobody_answered(began));
            patience = (patience * 2).min(self.dialer.connect_timeout);
            self.wait_for_turn().await;
        }
    }

    /// Connects to the first sentinel that answers. Each is tried once, if its gate lets us.
    async fn connect(&self, patience: Duration) -> Option<Connected<'_>> {
        let order = self.known().order();
        for at in order {
            if let Some(dial) = self.dial(at, patience).await
                && let Some(connected) = dial.run(patience).await
            {
                return Some(connected);
            }
        }
        None
    }

    /// Leave to dial a sentinel; `None` while it is known not to answer. Where it is only another set's
    /// turn, that is waited for.
    async fn dial(&self, at: usize, patience: Duration) -> Option<Dial<'_>> {
        let sentinel = &self.sentinels[at];
        let until = Instant::now() + patience;
        let failure = loop {
            let mut changed = pin!(sentinel.server.schedule_changed());
            changed.as_mut().enable();
            let due = {
                let (mut gate, now) = (sentinel.gate(), Instant::now());
                match gate.ask(now) {
                    Decision::Dial(approval) => {
                        return Some(Dial { set: self, at, approval: Some(approval) });
                    }
                    Decision::WaitUntil(due) if now < until && gate.failure().is_none() => due,
                    Decision::WaitUntil(_) | Decision::Held => {
                        gate.leave();
                        break gate.failure();
                    }
                }
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(due.min(until)) => {}
                () = changed => {}
            }
        };
        // Another set of the process may have found that out.
        let is_known = self.known().sentinels()[at].failure.is_some();
        if let Some(failure) = failure.filter(|_| !is_known) {
            self.learn(|known| known.failed(at, failure));
        }
        None
    }

    /// Waits until one of the sentinels may be dialed again. Whoever asks meanwhile is told at once that
    /// nobody answers.
    async fn wait_for_turn(&self) {
        let now = Instant::now();
        let turns = self.sentinels.iter().map(|sentinel| sentinel.gate().next_attempt_in(now));
        let turn = now + turns.min().unwrap_or_default();
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(turn) => return,
                () = self.asked.notified() => {
                    self.learn(|known| known.nobody_answered(Instant::now()));
                }
            }
        }
    }

    fn failed(&self, at: usize, failure: &Arc<DialFailure>) {
        let DialFailure { server: sentinel, outcome, message: error } = &**failure;
        shielded(|| tracing::debug!(%sentinel, %outcome, error, "a sentinel does not answer"));
        self.learn(|known| known.failed(at, Arc::clone(failure)));
    }
}

/// The time for which one keeps a set going.
struct Shift<'a> {
    set: &'a Sentinels,
    number: u64,
}

impl Shift<'_> {
    /// Shows that it goes on; completes when another one has taken over.
    async fn over(&self) {
        loop {
            tokio::time::sleep(SHOWS).await;
            let mut listener = self.set.listener();
            if listener.number != self.number {
                return;
            }
            listener.seen = Some(Instant::now());
        }
    }
}

impl Drop for Shift<'_> {
    fn drop(&mut self) {
        let mut listener = self.set.listener();
        if listener.number == self.number {
            listener.seen = None;
            drop(listener);
            self.set.vacant.notify_waiters();
        }
    }
}

/// A dial of a sentinel. Dropped before its end, it gives its approval back.
struct Dial<'a> {
    set: &'a Sentinels,
    at: usize,
    approval: Option<Approval>,
}

impl<'a> Dial<'a> {
    /// Connects and asks; `None` if the sentinel fails, or if another one may know more.
    async fn run(mut self, patience: Duration) -> Option<Connected<'a>> {
        let (set, at) = (self.set, self.at);
        let sentinel = &set.sentinels[at];
        set.known().awaited = Some(at);
        let started = Instant::now();
        let result = match set.dialer.open_within(&sentinel.target, &sentinel.login, patience).await
        {
            Ok(opened) => {
                let link = Link::new(opened);
                let mut connected = Connected { set, at, link, patience, again: started };
                connected.ask().await.map(|stays| stays.then_some(connected))
            }
            Err(failure) => Err(Arc::new(failure)),
        };
        let approval = self.approval.take()?;
        let now = Instant::now();
        match result {
            Ok(connected) => {
                sentinel.gate().connected(approval, true, now - started, now);
                connected
            }
            Err(failure) => {
                sentinel.gate().failed(approval, true, Arc::clone(&failure), now);
                set.failed(at, &failure);
                None
            }
        }
    }
}

impl Drop for Dial<'_> {
    fn drop(&mut self) {
        if let Some(approval) = self.approval.take() {
            self.set.sentinels[self.at].gate().abandoned(approval, Instant::now());
        }
    }
}

/// A sentinel that is connected. Dropped, the connection is closed.
struct Connected<'a> {
    set: &'a Sentinels,
    at: usize,
    link: Link,
    patience: Duration,
    /// When it is asked again although nothing calls for it.
    again: Instant,
}

impl Connected<'_> {
    /// Hears what is published, or asks when it is time; false if it has failed, or if it is another
    /// sentinel's turn.
    async fn goes_on(&mut self) -> bool {
        let published = tokio::select! {
            biased;
            // First, also of one that publishes without end.
            () = tokio::time::sleep_until(self.again) => None,
            () = self.set.asked.notified() => None,
            publication = self.link.next() => Some(publication),
        };
        let asks = match published {
            None => true,
            Some(Ok(publication)) => {
                self.set.learn(|known| known.heard(&publication, Instant::now()))
            }
            Some(Err(error)) => {
                self.broke(&self.failure_of(&error));
                return false;
            }
        };
        if !self.set.known().is_turn_of(self.at) {
            return false;
        }
        if !asks {
            return true;
        }
        match self.ask().await {
            Ok(stays) => stays,
            Err(failure) => {
                self.broke(&failure);
                false
            }
        }
    }

    /// Asks everything that anybody wants to know; false if another sentinel may know more.
    async fn ask(&mut self) -> Result<bool, Arc<DialFailure>> {
        let asked = Instant::now();
        self.again = asked + ASK_AGAIN.mul_f64(0.75 + 0.5 * fastrand::f64());
        let questions = {
            let mut known = self.set.known();
            known.awaited = Some(self.at);
            known.questions()
        };
        let answers = match tokio::time::timeout(self.patience, self.link.ask(&questions)).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => return Err(self.failure_of(&error)),
            Err(_) => return Err(self.failure(Outcome::Timeout, "no answer".to_owned())),
        };
        let at = self.at;
        Ok(self.set.learn(|known| {
            known.set_connected(at, true);
            known.answered(at, questions.into_iter().zip(answers), asked)
        }))
    }

    /// A connection that was let in has failed: its sentinel is not dialed again at once.
    fn broke(&self, failure: &Arc<DialFailure>) {
        self.set.sentinels[self.at].gate().heard_now(Arc::clone(failure), Instant::now());
        self.set.failed(self.at, failure);
    }

    fn failure_of(&self, error: &RedisError) -> Arc<DialFailure> {
        self.failure(Outcome::Other, error.to_string())
    }

    fn failure(&self, outcome: Outcome, message: String) -> Arc<DialFailure> {
        let server = Arc::clone(&self.set.sentinels[self.at].target.name);
        Arc::new(DialFailure { server, outcome, message })
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        let at = self.at;
        self.set.learn(|known| known.set_connected(at, false));
    }
}
