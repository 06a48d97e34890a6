//! On sets that cannot be brought about on one machine.

use std::collections::HashMap;

use redis::Value;

use super::*;
use crate::DialFailure;
use crate::dial::Trace;
use crate::doctor::facts::{Dials, Info, NoAnswer};
use crate::doctor::probe::{Access, Target};
use crate::doctor::sentinel::{Look, PeerWord, Quorum, Set, Slots, View};
use crate::doctor::{Check, Doctor};
use crate::sentinel::{Instance, Named};
use crate::server::{ServerObserver, ServerSnapshot};

fn named(host: &str) -> Named {
    Named { host: host.to_owned(), port: 6379 }
}

fn instance(words: &[&str]) -> Instance {
    let words = words.iter().map(|word| Value::BulkString(word.as_bytes().to_vec()));
    Instance::parse(Value::Array(words.collect())).expect("an instance")
}

fn info(text: &str) -> Info {
    let mut observer = ServerObserver::default();
    let seen = observer.observe(ServerSnapshot::parse(text), tokio::time::Instant::now());
    Info::new(text, seen, None)
}

fn missed(outcome: Outcome, connected: bool) -> Missed {
    let failure = DialFailure { server: "it".into(), outcome, message: "no such way".to_owned() };
    Missed { failure, connected }
}

fn word(quorum: &str, flags: &str) -> PeerWord {
    let said = instance(&["flags", flags, "quorum", quorum, "num-other-sentinels", "2"]);
    let words = "OK 3 usable Sentinels.".to_owned();
    let view = View {
        address: Ok(Some(named("10.0.0.1"))),
        said: Ok(said),
        quorum: Ok(Quorum { is_reached: true, words }),
    };
    PeerWord { view, slots: Ok(Slots { used: Some(10), ceiling: Some(100) }) }
}

fn peer(host: &str, word: Result<PeerWord, Missed>) -> Peer {
    let known = Some((named(host), instance(&["flags", "sentinel"])));
    Peer { server: named(host).to_string(), named: known, word }
}

fn replica(host: &str, text: &str) -> Look {
    let said = instance(&["flags", "slave", "slave-priority", "100", "master-link-status", "ok"]);
    Look { at: named(host), said: Some(said), info: Ok(Ok(info(text))) }
}

/// Three sentinels and a replica, all well.
fn set() -> Set {
    let own =
        Peer { server: "10.0.0.4:26379".to_owned(), named: None, word: Ok(word("2", "master")) };
    let others = ["10.0.0.5", "10.0.0.6"].map(|host| peer(host, Ok(word("2", "master"))));
    Set {
        name: "mymaster".to_owned(),
        at: named("10.0.0.1"),
        sentinels: [own].into_iter().chain(others).collect(),
        replicas: Ok(vec![replica(
            "10.0.0.2",
            "role:slave\nconnected_clients:5\nmaxclients:100\n",
        )]),
        others: Vec::new(),
        resolved: HashMap::new(),
        here: false,
    }
}

/// The checks of a set whose master was not connected to for this reason.
fn judged(set: &Set, failure: Option<Missed>) -> HashMap<&'static str, Check> {
    let target = Target::parse("redis://10.0.0.1", &Access::default()).expect("a URL");
    let mut dials = Dials::none(None);
    if let Some(Missed { failure, connected }) = failure {
        dials.trace =
            Trace { connected: connected.then_some(target.location().timeout), ..dials.trace };
        dials.failure = Some(failure);
    }
    let doctor = Doctor::default();
    let location = target.location();
    let findings = Findings {
        location: &location,
        options: &doctor.options,
        dials: &dials,
        facts: None,
        set: Some(set),
        cluster: None,
    };
    checks(findings).into_iter().map(|check| (check.id, check)).collect()
}

#[test]
fn a_set_that_is_well() {
    for (id, check) in judged(&set(), None) {
        assert!(check.level <= Level::Skipped, "{id}: {check:?}");
    }
}

#[test]
fn an_address_of_everybodys_own_machine_is_none() {
    let mut set = set();
    set.at = named("127.0.0.1");
    let check = &judged(&set, None)["sentinel.addresses"];
    assert_eq!(check.level, Level::Failed, "{check:?}");
    assert!(check.evidence.contains("announced as the master, is everybody's own"), "{check:?}");
    set.here = true;
    assert_eq!(judged(&set, None)["sentinel.addresses"].level, Level::Ok);
}

#[test]
fn a_sentinel_that_is_not_reached_is_a_warning_and_a_replica_a_failure() {
    let mut set = set();
    set.sentinels[2].word = Err(missed(Outcome::Timeout, false));
    assert_eq!(judged(&set, None)["sentinel.addresses"].level, Level::Warning);
    set.replicas.as_mut().expect("replicas")[0].info = Err(missed(Outcome::Dns, false));
    let check = &judged(&set, None)["sentinel.addresses"];
    assert_eq!(check.level, Level::Failed);
    assert!(
        check.evidence.contains("10.0.0.2:6379, announced as a replica: no such way"),
        "{check:?}"
    );
}

#[test]
fn one_that_is_reached_and_says_nothing_has_the_right_address() {
    let mut set = set();
    set.sentinels[2].word = Err(missed(Outcome::Timeout, true));
    set.replicas.as_mut().expect("replicas")[0].info = Err(missed(Outcome::Auth, true));
    let checks = judged(&set, Some(missed(Outcome::Auth, true)));
    assert_eq!(checks["sentinel.addresses"].level, Level::Ok);
    assert_eq!(checks["sentinel.agreement"].level, Level::Warning);
    assert_eq!(checks["sentinel.replicas"].level, Level::Warning);
}

#[test]
fn a_master_that_some_sentinels_do_not_reach() {
    let mut set = set();
    set.sentinels[1].word = Ok(word("2", "master,s_down"));
    let check = &judged(&set, None)["sentinel.state"];
    assert_eq!(
        (check.level, &*check.evidence),
        (Level::Warning, "held for down (s_down) by 1 of 3 sentinels")
    );
    for sentinel in &mut set.sentinels {
        sentinel.word = Ok(word("2", "master,s_down"));
    }
    assert_eq!(judged(&set, None)["sentinel.state"].level, Level::Failed);
}

#[test]
fn the_link_to_a_master_that_is_down_is_no_fault_of_the_replica() {
    let mut set = set();
    let down = "role:slave\nmaster_link_status:down\nmaxclients:100\nconnected_clients:5\n";
    set.replicas = Ok(vec![replica("10.0.0.2", down)]);
    assert_eq!(
        judged(&set, Some(missed(Outcome::Refused, false)))["sentinel.replicas"].level,
        Level::Ok
    );
}

#[test]
fn sentinels_and_replicas_that_fill_up() {
    for (used, level) in [(79, Level::Ok), (80, Level::Warning), (90, Level::Failed)] {
        let mut set = set();
        let slots = Slots { used: Some(used), ceiling: Some(100) };
        set.sentinels[1].word.as_mut().expect("a word").slots = Ok(slots);
        let text = format!("role:slave\nconnected_clients:{used}\nmaxclients:100\n");
        set.replicas = Ok(vec![replica("10.0.0.2", &text)]);
        let checks = judged(&set, None);
        assert_eq!(checks["sentinel.capacity"].level, level, "{used}");
        assert_eq!(checks["sentinel.room"].level, level, "{used}");
    }
}

#[test]
fn without_ckquorum_the_flags_are_counted() {
    let mut set = set();
    for sentinel in &mut set.sentinels {
        let word = sentinel.word.as_mut().expect("a word");
        word.view.quorum = Err(NoAnswer::Denied("NOPERM".to_owned()));
    }
    assert_eq!(judged(&set, None)["sentinel.quorum"].level, Level::Ok);
    let down = Some((named("10.0.0.5"), instance(&["flags", "sentinel,s_down"])));
    set.sentinels[1].named = down.clone();
    assert_eq!(judged(&set, None)["sentinel.quorum"].level, Level::Warning);
    set.sentinels[2].named = down;
    assert_eq!(judged(&set, None)["sentinel.quorum"].level, Level::Failed);
}

#[test]
fn numbers_of_no_sense_are_no_overflow() {
    let mut set = set();
    for quorum in ["0", "18446744073709551615", "-1", ""] {
        let said = ["quorum", quorum, "num-other-sentinels", "18446744073709551615"];
        let word = set.sentinels[0].word.as_mut().expect("a word");
        word.view.said = Ok(instance(&said));
        let check = &judged(&set, None)["sentinel.quorum"];
        assert!(!check.evidence.is_empty(), "{check:?}");
    }
}
