//! A server that sentinels name.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::place::{Doubt, Listening, Place, Resolve, Resolving, SentinelsSeen};
use crate::DialFailure;
use crate::dial::{Address, Target};
use crate::sentinel::{Question, Said, Sentinels};
use crate::server::{Role, Server};
use crate::telemetry::status::SentinelServerStatus;

/// The master of a name, or one of its replicas.
#[derive(Debug)]
pub(in crate::pool) struct Sentinel {
    set: Arc<Sentinels>,
    question: Question,
    /// What the server is to be.
    role: Role,
    /// How it is spoken to.
    like: Address,
    /// The pool keeps its gate to itself.
    own_gate: bool,
    seed: u64,
    found: Mutex<Found>,
}

/// What was made of the last word.
#[derive(Debug)]
struct Found {
    place: Option<Arc<Place>>,
    /// When the sentinels were asked that said so.
    asked: Option<Instant>,
    /// It is to be asked anew, as of then.
    doubted: Instant,
    /// The server that could not be used: another one is taken, where there are several.
    shunned: Option<Arc<str>>,
}

impl Sentinel {
    pub(in crate::pool) fn new(
        set: Arc<Sentinels>,
        name: &str,
        role: Role,
        like: Address,
        own_gate: bool,
        seed: u64,
    ) -> Self {
        let question = match role {
            Role::Replica => Question::Replicas(name.into()),
            Role::Master | Role::ActiveReplica => Question::Master(name.into()),
        };
        set.want(&question);
        let found =
            Mutex::new(Found { place: None, asked: None, doubted: Instant::now(), shunned: None });
        Self { set, question, role, like, own_gate, seed, found }
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place that a word leads to.
    fn take(&self, found: &mut Found, said: &Said) -> Option<Arc<Place>> {
        found.asked = found.asked.max(Some(said.asked));
        let addresses = said.addresses.iter();
        let addresses = addresses.map(|named| self.like.at(&named.host, named.port)).collect();
        let (name, address) = choose(addresses, found)?;
        if let Some(place) = found.place.as_ref().filter(|place| *place.target.name == *name) {
            return Some(Arc::clone(place));
        }
        let server = match self.own_gate {
            true => Server::alone(&name, self.seed),
            false => Server::shared(&address, self.seed),
        };
        let place = Arc::new(Place::claimed(Target::new(address), server, self.role));
        found.place = Some(Arc::clone(&place));
        Some(place)
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        self.set.forget(&self.question);
    }
}

/// Of the servers that were said the one that is used already; if that is not among them, or could not be
/// used, another one at random: a fleet spreads over them. With its name.
fn choose(addresses: Vec<Address>, found: &Found) -> Option<(String, Address)> {
    let mut all: Vec<_> =
        addresses.into_iter().map(|address| (address.to_string(), address)).collect();
    if let Some(shunned) = &found.shunned
        && all.iter().any(|(name, _)| **name != **shunned)
    {
        all.retain(|(name, _)| **name != **shunned);
    }
    let current = found.place.as_ref().map(|place| &*place.target.name);
    let at = all.iter().position(|(name, _)| Some(&**name) == current);
    let at = at.or_else(|| fastrand::choice(0..all.len()))?;
    Some(all.swap_remove(at))
}

impl Resolve for Sentinel {
    fn resolve(&self) -> Resolving<'_> {
        let doubted = {
            let found = self.found();
            if let Some(place) = &found.place
                && found.asked >= Some(found.doubted)
            {
                return Box::pin(std::future::ready(Ok(Arc::clone(place))));
            }
            found.doubted
        };
        Box::pin(async move {
            let answer = self.set.ask(&self.question, doubted).await;
            let before = self.set.said(&self.question);
            let mut found = self.found();
            let failure = match answer {
                Ok(said) => match self.take(&mut found, &said) {
                    Some(place) => return Ok(place),
                    None => DialFailure::new(
                        Arc::clone(self.question.name()),
                        crate::Outcome::Misconfigured,
                        "its sentinels name no server",
                    ),
                },
                Err(failure) => failure,
            };
            // Without sentinels it is looked for where it was, by what any pool of the process has heard: it
            // may be there, or be back. Asked anew after the next failure.
            let place = match (&found.place, before) {
                (Some(place), _) => Some(Arc::clone(place)),
                (None, Some(said)) => self.take(&mut found, &said),
                (None, None) => None,
            };
            let place = place.ok_or(failure)?;
            found.asked = found.asked.max(Some(doubted));
            Ok(place)
        })
    }

    fn latest(&self) -> Option<Arc<Place>> {
        let said = self.set.said(&self.question)?;
        let mut found = self.found();
        if found.asked.is_some_and(|asked| said.asked <= asked) {
            return found.place.clone();
        }
        self.take(&mut found, &said)
    }

    fn doubt(&self, place: &Place, doubt: Doubt) {
        let now = Instant::now();
        {
            let mut found = self.found();
            let is_current = |current: &Arc<Place>| current.target.name == place.target.name;
            if !found.place.as_ref().is_some_and(is_current) {
                // There is another word by now.
                return;
            }
            found.doubted = now;
            if let Some(current) = &found.place {
                current.set_proven(false);
            }
            if doubt != Doubt::Lost {
                found.shunned = Some(Arc::clone(&place.target.name));
            }
        }
        match doubt {
            Doubt::Lost => {}
            Doubt::Unreachable => self.set.useless(&self.question, now),
            Doubt::WrongRole => self.set.distrust(&self.question),
        }
    }

    fn confirm(&self, place: &Place) {
        if place.claim().is_some() {
            place.set_proven(true);
            self.set.confirm(&self.question);
            self.found().shunned = None;
        }
    }

    fn listen(&self) -> Listening<'_> {
        Box::pin(self.set.listen())
    }

    fn news(&self) -> Listening<'_> {
        Box::pin(self.set.told())
    }

    fn unanswered(&self) -> Option<DialFailure> {
        self.set.unanswered(&self.question)
    }

    fn sentinels(&self) -> Option<SentinelsSeen> {
        let each = self.set.each().into_iter();
        let sentinels = each
            .map(|(server, connected, last_failure)| SentinelServerStatus {
                server,
                connected,
                last_failure,
            })
            .collect();
        Some(SentinelsSeen {
            master: Arc::clone(self.question.name()),
            is_master: matches!(self.question, Question::Master(_)),
            sentinels,
            trouble: self.set.trouble(&self.question),
        })
    }
}
