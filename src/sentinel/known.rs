//! What is known of where servers are, and which sentinel is to be asked next. Pure: `now` is passed in.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::instance::Named;
use super::link::Answer;
use super::question::{Publication, Question};
use crate::vocabulary::DialFailure;

/// How long an answer that leads nowhere is taken from the same sentinel: it may be cut off from the
/// others. Over by the fourth failed dial, 300 ms apart at least, for the fifth ends the callers' wait.
const USELESS_FOR: Duration = Duration::from_millis(750);

/// How long sentinels that did not know a name are not connected to for its sake again: the others'
/// pools listen meanwhile.
const IGNORANT_FOR: Duration = Duration::from_secs(30);

/// What one set of sentinels has said.
#[derive(Debug)]
pub(super) struct Known {
    words: BTreeMap<Question, Word>,
    /// How many pools want to know each.
    pools: HashMap<Question, usize>,
    sentinels: Vec<Seen>,
    /// Whose turn it is: the one that answered last, unless it has failed since.
    first: usize,
    /// The one that has not answered yet.
    pub(super) awaited: Option<usize>,
}

/// What is known of a sentinel.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) connected: bool,
    /// Why it did not answer when it was asked last.
    pub(super) failure: Option<Arc<DialFailure>>,
}

/// What is known about one question.
#[derive(Debug)]
struct Word {
    /// Asked for as of then.
    wanted: Instant,
    said: Option<Said>,
    /// When it was asked last, and no sentinel knew.
    unanswered: Option<Instant>,
    /// What was said leads nowhere, since then.
    useless: Option<Instant>,
    /// Why each sentinel does not know, in its words, and since when.
    ignorance: HashMap<usize, (String, Instant)>,
}

/// What a sentinel said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) addresses: Vec<Named>,
    /// When it was asked.
    pub(crate) asked: Instant,
}

impl Known {
    /// Of so many sentinels; `first` is asked first.
    pub(super) fn new(sentinels: usize, first: usize) -> Self {
        Self {
            words: BTreeMap::new(),
            pools: HashMap::new(),
            sentinels: vec![Seen::default(); sentinels],
            first,
            awaited: None,
        }
    }

    pub(super) fn sentinels(&self) -> &[Seen] {
        &self.sentinels
    }

    pub(super) fn is_turn_of(&self, at: usize) -> bool {
        self.first == at
    }

    /// The sentinels in the order in which they are tried.
    pub(super) fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, count) = (self.first, self.sentinels.len());
        (0..count).map(move |offset| (first + offset) % count)
    }

    /// One more pool wants to know.
    pub(super) fn want(&mut self, question: &Question) {
        *self.pools.entry(question.clone()).or_default() += 1;
    }

    /// One of them does not any more; with the last one it is forgotten.
    pub(super) fn forget(&mut self, question: &Question) {
        let Some(pools) = self.pools.get_mut(question) else { return };
        *pools -= 1;
        if *pools == 0 {
            self.pools.remove(question);
            self.words.remove(question);
        }
    }

    pub(super) fn questions(&self) -> Vec<Question> {
        self.words.keys().cloned().collect()
    }

    pub(super) fn said(&self, question: &Question) -> Option<&Said> {
        self.words.get(question)?.said.as_ref()
    }

    /// Whether no sentinel knew when they were asked last.
    pub(super) fn is_unanswered(&self, question: &Question) -> bool {
        self.words.get(question).is_some_and(|word| word.unanswered.is_some())
    }

    /// What is said as of `since`, or that nobody knows; `None` where it has to be asked first.
    pub(super) fn ask(&mut self, question: &Question, since: Instant) -> Option<Option<Said>> {
        let word = self.words.entry(question.clone()).or_insert_with(|| Word {
            wanted: since,
            said: None,
            unanswered: None,
            useless: None,
            ignorance: HashMap::new(),
        });
        if let Some(said) = word.said.as_ref().filter(|said| said.asked >= since) {
            return Some(Some(said.clone()));
        }
        word.wanted = word.wanted.max(since);
        word.unanswered.filter(|when| *when >= since).map(|_| None)
    }

    /// What was said leads nowhere: nothing is there, say. True if it has for long, and it is the next
    /// sentinel's turn.
    pub(super) fn useless(&mut self, question: &Question, now: Instant) -> bool {
        let Some(word) = self.words.get_mut(question) else { return false };
        let over = now >= *word.useless.get_or_insert(now) + USELESS_FOR;
        if over {
            self.distrust(question);
        }
        over
    }

    /// What was said is not so: it is the next sentinel's turn.
    pub(super) fn distrust(&mut self, question: &Question) {
        self.confirm(question);
        self.first = (self.first + 1) % self.sentinels.len();
    }

    /// What was said leads somewhere.
    pub(super) fn confirm(&mut self, question: &Question) {
        if let Some(word) = self.words.get_mut(question) {
            word.useless = None;
        }
    }

    /// The sentinel did not answer.
    pub(super) fn failed(&mut self, at: usize, failure: Arc<DialFailure>) {
        self.sentinels[at].failure = Some(failure);
        self.awaited = None;
        if self.first == at {
            self.first = (at + 1) % self.sentinels.len();
        }
    }

    /// None of them did, in a round that began then.
    pub(super) fn nobody_answered(&mut self, began: Instant) {
        for word in self.words.values_mut().filter(|word| word.wanted <= began) {
            word.unanswered = Some(began);
        }
    }

    /// The sentinel was asked then, and has answered. True if it is to be listened to; false if another
    /// one may know what it does not.
    pub(super) fn answered(
        &mut self,
        at: usize,
        answers: impl IntoIterator<Item = (Question, Answer)>,
        asked: Instant,
    ) -> bool {
        self.awaited = None;
        self.sentinels[at].failure = None;
        let mut stays = true;
        for (question, answer) in answers {
            let Some(word) = self.words.get_mut(&question) else { continue };
            match answer {
                Ok(addresses) => word.hear(addresses, asked),
                Err(words) => {
                    word.ignorance.retain(|_, (_, since)| *since + IGNORANT_FOR > asked);
                    word.ignorance.entry(at).or_insert((words, asked));
                    let sentinels = self.sentinels.iter().enumerate();
                    let mut left = sentinels.filter(|(other, seen)| {
                        seen.failure.is_none() && !word.ignorance.contains_key(other)
                    });
                    if left.next().is_some() {
                        stays = false;
                    } else {
                        word.unanswered = Some(asked);
                    }
                }
            }
        }
        self.first = if stays { at } else { (at + 1) % self.sentinels.len() };
        stays
    }

    pub(super) fn set_connected(&mut self, at: usize, connected: bool) {
        self.sentinels[at].connected = connected;
    }

    /// Takes in what was published; true if it has to be asked what that means.
    pub(super) fn heard(&mut self, publication: &Publication, now: Instant) -> bool {
        let (name, moved) = match publication {
            Publication::Moved(name, address) => (name, Some(address)),
            Publication::Changed(name) => (name, None),
        };
        let mut asks = false;
        for (question, word) in self.words.iter_mut().filter(|(q, _)| **q.name() == **name) {
            match (question, moved) {
                (Question::Master(_), Some(address)) => word.hear(vec![address.clone()], now),
                (Question::Master(_), None) | (Question::Replicas(_), _) => asks = true,
            }
        }
        asks
    }

    /// Why each sentinel does not say: in which words, and whether it could not be asked.
    pub(super) fn excuses(&self, question: &Question) -> Vec<(usize, Excuse<'_>)> {
        let word = self.words.get(question);
        let ignorance = |at| Some(word?.ignorance.get(&at)?.0.as_str());
        let sentinels = self.sentinels.iter().enumerate();
        sentinels
            .filter_map(|(at, seen)| {
                let failure = seen.failure.as_deref().map(Excuse::Failed);
                Some((at, failure.or_else(|| ignorance(at).map(Excuse::Ignorant))?))
            })
            .collect()
    }
}

/// Why a sentinel does not say where a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excuse<'a> {
    Failed(&'a DialFailure),
    /// In its words.
    Ignorant(&'a str),
}

impl Word {
    fn hear(&mut self, addresses: Vec<Named>, asked: Instant) {
        if self.said.as_ref().is_some_and(|said| said.addresses != addresses) {
            self.useless = None;
        }
        self.ignorance.clear();
        self.unanswered = None;
        self.said = Some(Said { addresses, asked });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;

    const SECOND: Duration = Duration::from_secs(1);

    fn master(name: &str) -> Question {
        Question::Master(name.into())
    }

    fn at(port: u16) -> Vec<Named> {
        vec![Named { host: "10.0.0.1".to_owned(), port }]
    }

    fn no() -> Answer {
        Err("it knows no such master".to_owned())
    }

    fn refused() -> Arc<DialFailure> {
        Arc::new(DialFailure::new("sentinel", Outcome::Refused, "nothing listens there"))
    }

    fn order(known: &Known) -> Vec<usize> {
        known.order().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_serves_all_who_asked_before_it() {
        let (mut known, now) = (Known::new(3, 1), Instant::now());
        assert_eq!(known.ask(&master("m"), now), None);
        assert!(known.answered(1, [(master("m"), Ok(at(1)))], now));
        let said = known.ask(&master("m"), now).unwrap().unwrap();
        assert_eq!((said.addresses, said.asked), (at(1), now));
        assert_eq!(known.ask(&master("m"), now + SECOND), None, "that is too old");
        assert_eq!(order(&known), [1, 2, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_is_asked_last() {
        let (mut known, now) = (Known::new(3, 0), Instant::now());
        known.ask(&master("m"), now);
        known.failed(0, refused());
        assert_eq!(order(&known), [1, 2, 0]);
        known.nobody_answered(now);
        assert_eq!(known.ask(&master("m"), now), Some(None));
        assert_eq!(known.ask(&master("m"), now + SECOND), None);
        assert_eq!(known.excuses(&master("m")), [(0, Excuse::Failed(&refused()))]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_one_does_not_know_is_asked_of_the_others_once() {
        let (mut known, now) = (Known::new(3, 0), Instant::now());
        known.ask(&master("m"), now);
        known.ask(&master("typo"), now);
        known.failed(2, refused());
        let answers = || [(master("m"), Ok(at(1))), (master("typo"), no())];
        assert!(!known.answered(0, answers(), now));
        assert_eq!(order(&known)[0], 1);
        assert!(known.answered(1, answers(), now), "there is no other");
        assert_eq!(known.ask(&master("typo"), now), Some(None));
        assert_eq!(known.excuses(&master("typo")).len(), 3);

        known.ask(&master("typo"), now + SECOND);
        assert!(known.answered(1, answers(), now + SECOND));
        assert_eq!(known.ask(&master("typo"), now + SECOND), Some(None));
        let later = now + IGNORANT_FOR + SECOND;
        assert!(!known.answered(1, answers(), later), "by now another one may know it");
        assert!(known.answered(0, [(master("typo"), Ok(at(7)))], later));
        assert_eq!(known.said(&master("typo")).unwrap().addresses, at(7));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_leads_nowhere_for_long_is_asked_of_the_next() {
        let (mut known, now) = (Known::new(2, 0), Instant::now());
        known.ask(&master("m"), now);
        known.answered(0, [(master("m"), Ok(at(1)))], now);
        assert!(!known.useless(&master("m"), now));
        assert!(!known.useless(&master("m"), now + USELESS_FOR / 2));
        assert!(known.useless(&master("m"), now + USELESS_FOR));
        assert_eq!(order(&known), [1, 0]);

        known.answered(1, [(master("m"), Ok(at(1)))], now + USELESS_FOR);
        known.useless(&master("m"), now + USELESS_FOR);
        known.answered(1, [(master("m"), Ok(at(2)))], now + USELESS_FOR * 2);
        assert!(!known.useless(&master("m"), now + USELESS_FOR * 2), "it is another answer");
        assert!(known.is_turn_of(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_pool_wants_to_know_any_more_is_not_asked() {
        let (mut known, now) = (Known::new(2, 0), Instant::now());
        for name in ["m", "typo", "m"] {
            known.want(&master(name));
            known.ask(&master(name), now);
        }
        assert!(!known.answered(0, [(master("m"), Ok(at(1))), (master("typo"), no())], now));
        known.forget(&master("typo"));
        known.forget(&master("m"));
        assert_eq!(known.questions(), [master("m")]);
        assert!(known.answered(1, [(master("m"), Ok(at(1))), (master("typo"), no())], now));
        known.forget(&master("m"));
        assert_eq!(known.questions(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_published_is_taken_in_or_asked_for() {
        let (mut known, now) = (Known::new(1, 0), Instant::now());
        known.ask(&master("m"), now);
        let moved =
            Publication::Moved("m".to_owned(), Named { host: "10.0.0.2".to_owned(), port: 6379 });
        let changed = Publication::Changed("m".to_owned());
        assert!(!known.heard(&moved, now));
        let said = known.said(&master("m")).unwrap();
        assert_eq!(said.addresses, [Named { host: "10.0.0.2".to_owned(), port: 6379 }]);
        assert!(known.heard(&changed, now));

        known.ask(&Question::Replicas("m".into()), now);
        assert!(known.heard(&changed, now) && known.heard(&moved, now));
        assert!(!known.heard(&Publication::Changed("other".to_owned()), now));
    }
}
