//! What the pools of this process know of how a server is: one question and one answer for all.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use super::{Observation, Server, ServerEvent, ServerObserver, ServerSnapshot, WatchStatus};
use crate::policy::Backoff;
use crate::sync::{MutexGuard, Notified};

/// Between questions to a server that does not answer them: one that stalls must not be asked by a
/// whole fleet all the time, and one that is back is heard within a quarter of a minute.
const UNANSWERED: Backoff =
    Backoff::equal_jitter(Duration::from_millis(250), Duration::from_secs(15));

/// Events that are kept for pools that have not looked yet. They look four times a second.
const EVENTS: usize = 64;

#[derive(Debug)]
pub(super) struct Watched {
    observer: ServerObserver,
    latest: Option<Seen>,
    /// The last events, each with the number of its observation.
    events: VecDeque<(u64, ServerEvent)>,
    /// Connections that pools of this process allowed themselves by the last observation, and did not
    /// have when it was made.
    promised: u64,
    /// The question that is on its way, by its number, and when it is given up: whoever asks may stand
    /// still.
    asking: Option<(u64, Instant)>,
    /// Questions so far.
    questions: u64,
    /// Questions in a row that were not answered, and the delay that the last one led to.
    failures: u32,
    delay: Duration,
    not_before: Option<Instant>,
    rng: Rng,
}

impl Watched {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            observer: ServerObserver::default(),
            latest: None,
            events: VecDeque::new(),
            promised: 0,
            asking: None,
            questions: 0,
            failures: 0,
            delay: Duration::ZERO,
            not_before: None,
            rng: Rng::with_seed(seed),
        }
    }
}

/// The server as it was observed last.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Counts the observations.
    pub(crate) number: u64,
    /// When the question was sent: what happened after that may not be in it.
    pub(crate) sent: Instant,
    /// When the answer came.
    pub(crate) at: Instant,
    pub(crate) observation: Arc<Observation>,
    /// Connections it was seen to refuse so far.
    pub(crate) rejections: u64,
}

impl Seen {
    /// The part of the server's connections that was in use.
    pub(crate) fn saturation(&self) -> Option<f64> {
        self.observation.saturation()
    }

    /// True if it would be seen whether there is room.
    pub(crate) fn tells_room(&self) -> bool {
        let observation = &self.observation;
        observation.snapshot.rejected_connections.is_some() && observation.free().is_some()
    }

    /// True if the server, asked since then, had room, and had refused nobody.
    pub(crate) fn sees_room(&self, since: Instant) -> bool {
        self.sent >= since
            && self.observation.new_rejections == Some(0)
            && self.observation.free().is_some_and(|free| free > 0)
    }

    /// As a status tells of it.
    pub(crate) fn status(&self, now: Instant) -> WatchStatus {
        WatchStatus {
            observation: Some(Arc::clone(&self.observation)),
            saturation: self.saturation(),
            age: Some(now.saturating_duration_since(self.at)),
            rejections_seen: self.rejections,
            trouble: None,
        }
    }
}

impl Server {
    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn seen(&self) -> Option<Seen> {
        self.watched().latest.clone()
    }

    /// What happened to the server after an observation, by its number.
    pub(crate) fn events_since(&self, number: u64) -> Vec<ServerEvent> {
        let watched = self.watched();
        watched.events.iter().filter(|(at, _)| *at > number).map(|(_, event)| *event).collect()
    }

    /// Lets a pool go by an observation: it is told what others have promised themselves by it, and says
    /// what it promises itself. Pools that step together would take what is free more than once.
    pub(crate) fn promise(&self, seen: &Seen, step: impl FnOnce(u64) -> usize) {
        let mut watched = self.watched();
        let last = watched.latest.as_ref().is_some_and(|last| last.number == seen.number);
        let more = step(if last { watched.promised } else { 0 });
        if last {
            watched.promised += u64::try_from(more).unwrap_or(u64::MAX);
        }
    }

    /// Completes when there is news since the future was [enabled](Notified::enable): an observation,
    /// or a question that was given up.
    pub(crate) fn news(&self) -> Notified<'_> {
        self.news.notified()
    }

    /// The right to ask the server how it is, for `patience`; `None` while another asks, or a server that
    /// has not answered is left alone.
    pub(crate) fn question(self: &Arc<Self>, now: Instant, patience: Duration) -> Option<Question> {
        let mut watched = self.watched();
        let asked = watched.asking.is_some_and(|(_, until)| until > now);
        if asked || watched.not_before.is_some_and(|due| due > now) {
            return None;
        }
        watched.questions += 1;
        let number = watched.questions;
        watched.asking = Some((number, now + patience));
        Some(Question { server: Arc::clone(self), number, sent: now })
    }

    /// When the server may be asked again: who asks is given up then, or it has been left alone.
    pub(crate) fn question_due(&self) -> Option<Instant> {
        let watched = self.watched();
        watched.asking.map(|(_, until)| until).max(watched.not_before)
    }
}

/// The right to ask a server how it is. Dropped without an answer, it is another pool's.
#[derive(Debug)]
#[must_use]
pub(crate) struct Question {
    server: Arc<Server>,
    number: u64,
    sent: Instant,
}

impl Question {
    /// True unless it was given up, and another asks, or has asked.
    fn is_current(&self, watched: &Watched) -> bool {
        watched.asking.is_some_and(|(number, _)| number == self.number)
    }

    /// The server has answered.
    pub(crate) fn answered(self, snapshot: ServerSnapshot, now: Instant) {
        let mut watched = self.server.watched();
        if !self.is_current(&watched) {
            return;
        }
        let observation = watched.observer.observe(snapshot, now);
        let (number, rejections) =
            watched.latest.as_ref().map_or((0, 0), |seen| (seen.number, seen.rejections));
        let number = number + 1;
        for event in &observation.events {
            if watched.events.len() >= EVENTS {
                watched.events.pop_front();
            }
            watched.events.push_back((number, *event));
        }
        let rejections = rejections + observation.new_rejections.unwrap_or(0);
        let observation = Arc::new(observation);
        watched.latest = Some(Seen { number, sent: self.sent, at: now, observation, rejections });
        (watched.failures, watched.not_before, watched.promised) = (0, None, 0);
    }

    /// The server has not answered, or with an error.
    pub(crate) fn failed(self, now: Instant) {
        let mut watched = self.server.watched();
        if !self.is_current(&watched) {
            return;
        }
        watched.failures = watched.failures.saturating_add(1);
        let (failures, previous) = (watched.failures, watched.delay);
        watched.delay = UNANSWERED.delay(failures, previous, &mut watched.rng);
        watched.not_before = Some(now + watched.delay);
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let mut watched = self.server.watched();
        if self.is_current(&watched) {
            watched.asking = None;
        }
        drop(watched);
        self.server.news.notify_waiters();
    }
}
