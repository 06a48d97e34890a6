//! On facts that a real server is slow to bring about, or keeps to itself.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::doctor::facts::{Config, Dials, NoAnswer, SlowLog};
use crate::doctor::holders::Holders;
use crate::doctor::probe::{Access, Target};
use crate::doctor::{Doctor, ServerReport};
use crate::server::{ClientList, ServerObserver, ServerSnapshot};

/// What an examination would have found, INFO by INFO a second apart.
struct Found {
    infos: Vec<String>,
    clients: String,
    config_denied: bool,
}

impl Found {
    fn info(info: &str) -> Self {
        let info = format!("role:master\nconnected_slaves:0\nmaxclients:100\n{info}\n");
        Self { infos: vec![info], clients: String::new(), config_denied: false }
    }

    fn then(mut self, info: &str) -> Self {
        let first = self.infos[0].clone();
        // The first that can be read counts.
        self.infos.push(format!("{info}\n{first}"));
        self
    }

    fn clients(mut self, count: usize, fields: &str) -> Self {
        for _ in 0..count {
            self.clients.push_str(fields);
            self.clients.push('\n');
        }
        self
    }

    /// Opened a minute after each other, and forgotten.
    fn leaked(mut self, count: u64) -> Self {
        for nth in 0..count {
            let (age, idle) = (400 + 60 * nth, 390 + 60 * nth);
            let line = format!("addr=10.0.0.7:1 name=checkout age={age} idle={idle} flags=N");
            self = self.clients(1, &line);
        }
        self
    }

    fn judge(self) -> ServerReport {
        self.judge_top(10)
    }

    fn judge_top(self, top: usize) -> ServerReport {
        let doctor = Doctor::default().top(top);
        let (mut observer, mut now) = (ServerObserver::default(), Instant::now());
        let mut last = None;
        for info in &self.infos {
            now += Duration::from_secs(1);
            let seen = observer.observe(ServerSnapshot::parse(info), now);
            let sampled = last.is_some().then_some(Duration::from_secs(1));
            last = Some(Info::new(info, seen, sampled));
        }
        let list = ClientList::parse(&self.clients);
        let facts = Facts {
            last_look: None,
            info: last.ok_or_else(|| NoAnswer::Denied("NOPERM".to_owned())),
            holders: Ok(Holders::of(&list, None, doctor.options.idle_after, top)),
            ping: Err(NoAnswer::Denied("LOADING".to_owned())),
            config: match self.config_denied {
                true => Err(NoAnswer::Denied("NOPERM no".to_owned())),
                false => Ok(Config::default()),
            },
            slow: Ok(SlowLog::default()),
            sentinel: None,
            cluster: None,
            open_files_limit: None,
            somaxconn: None,
        };
        let target = Target::parse("redis://10.0.0.1", &Access::default()).expect("a URL");
        doctor.judge(&target.location(), &Dials::none(None), Some(facts), None, None)
    }
}

const BUSY: &str = "addr=10.0.0.8:1 name=search age=4000 idle=0 flags=N";

fn kinds(report: &ServerReport) -> Vec<VerdictKind> {
    report.verdicts().map(|verdict| verdict.kind).collect()
}

#[test]
fn the_storm_is_told_before_its_cause() {
    let found = Found::info("connected_clients:100\nrejected_connections:5")
        .then("rejected_connections:505")
        .leaked(80)
        .clients(4, BUSY);
    let report = found.judge();
    assert_eq!(kinds(&report), [VerdictKind::RetryStorm, VerdictKind::Leak]);
    assert!(report.verdict.summary.contains("500 times a second"), "{:?}", report.verdict);
}

#[test]
fn a_few_refusals_are_no_storm() {
    let found = Found::info("connected_clients:100\nrejected_connections:5")
        .then("rejected_connections:8")
        .clients(90, BUSY);
    assert_eq!(kinds(&found.judge()), [VerdictKind::CeilingTooLow]);
}

#[test]
fn where_config_is_denied_no_fix_says_config_set() {
    let mut found = Found::info("connected_clients:100\nrejected_connections:5")
        .then("rejected_connections:505")
        .leaked(80)
        .clients(4, BUSY);
    found.config_denied = true;
    let report = found.judge();
    let fixes = report.checks.iter().filter_map(|check| check.fix.as_deref());
    let actions = report.verdicts().flat_map(|verdict| verdict.actions.iter().map(String::as_str));
    for text in fixes.chain(actions) {
        assert!(!text.contains("CONFIG SET"), "{text}");
    }
    assert!(report.verdict.actions.iter().any(|action| action.contains("managed")));
}

#[test]
fn a_leak_far_below_the_ceiling_warns_and_does_not_fail() {
    let found = Found::info("connected_clients:50").leaked(40).clients(5, BUSY);
    let report = found.judge();
    assert_eq!(kinds(&report), [VerdictKind::Leak]);
    assert_eq!(report.level(), Level::Warning, "{:#?}", report.checks);
}

#[test]
fn links_of_the_cluster_bus_are_internal_connections() {
    let found = Found::info("connected_clients:42\ncluster_connections:50").clients(42, BUSY);
    let report = found.judge();
    assert_eq!(kinds(&report), [VerdictKind::InternalConnections]);
    assert_eq!(report.level(), Level::Failed);
}

#[test]
fn a_replica_that_goes_while_we_look_is_lost() {
    let found =
        Found::info("connected_clients:2").then("connected_slaves:1").then("connected_slaves:0");
    let report = found.judge();
    assert_eq!(kinds(&report), [VerdictKind::ReplicaLost]);
    let check = report.check("replication.replicas").expect("a check");
    assert_eq!((check.level, check.evidence.contains("expected 1")), (Level::Failed, true));
}

#[test]
fn the_number_that_is_listed_changes_no_verdict() {
    let slow = format!("addr=10.0.0.8:1 age=40 idle=0 flags=P omem={}", 9 << 20);
    let found = || Found::info("connected_clients:15").clients(15, &slow);
    let (few, none) = (found().judge_top(1), found().judge_top(0));
    for report in [few, none] {
        let check = report.check("holders.output_buffers").expect("a check");
        assert_eq!(check.level, Level::Warning);
        assert!(check.evidence.starts_with("15 slow consumers, 135.0 MiB"), "{}", check.evidence);
    }
}

#[test]
fn slots_that_are_reserved_are_not_left() {
    let found = Found::info("connected_clients:40\nmaxclients-reserved:58").clients(40, BUSY);
    let report = found.judge();
    assert_eq!(report.saturation(), Some(40.0 / 42.0));
    let check = report.check("capacity.saturation").expect("a check");
    assert_eq!(check.level, Level::Failed, "{}", check.evidence);
    assert!(check.evidence.starts_with("40 of 42 slots"), "{}", check.evidence);
    assert!(check.evidence.contains("58 slots more reserved by the server"), "{}", check.evidence);
    let fix = check.fix.as_deref().unwrap_or_default();
    assert!(fix.contains("maxclients 150"), "half as many again as there are, {fix}");
}

/// Valkey from 9.0 on does not count what it would have to show.
#[test]
fn unread_messages_that_the_server_hides_are_not_said_to_be_none() {
    let level = |version: &str, flags: &str| {
        let client = format!("addr=10.0.0.8:1 age=40 idle=0 flags={flags} omem=0");
        let found = Found::info(&format!("connected_clients:1\n{version}")).clients(1, &client);
        let report = found.judge();
        let check = report.check("holders.output_buffers").expect("a check");
        (check.level, check.evidence.contains("1 subscriber"))
    };
    assert_eq!(level("valkey_version:9.1.2", "P"), (Level::Skipped, true));
    assert_eq!(level("valkey_version:9.1.2", "N"), (Level::Ok, false), "nobody listens");
    assert_eq!(level("valkey_version:8.1.8", "P"), (Level::Ok, false));
    assert_eq!(level("redis_version:9.0.0", "P"), (Level::Ok, false));
}

#[test]
fn a_source_with_most_of_a_full_server_is_named() {
    let busy = "addr=10.0.0.9:1 name=thief age=4000 idle=0 flags=N";
    let found = Found::info("connected_clients:99").clients(90, busy).clients(9, BUSY);
    let report = found.judge();
    assert_eq!(kinds(&report), [VerdictKind::CeilingTooLow]);
    let check = report.check("holders.sources").expect("a check");
    assert_eq!(check.level, Level::Warning, "{}", check.evidence);
    assert!(report.verdict.reasons.iter().any(|reason| reason.contains("10.0.0.9 thief (90)")));
}

#[test]
fn pools_that_are_too_large_are_not_told_to_grow() {
    let idle = "addr=10.0.0.9:1 name=app age=9000 idle=4000 flags=N";
    let found = Found::info("connected_clients:120").clients(112, idle).clients(8, BUSY);
    let report = found.judge();
    assert_eq!(kinds(&report), [VerdictKind::OversizedPools]);
    let advice = &report.verdict.actions[0];
    assert!(advice.starts_with("smaller pools: 8 each"), "{advice}");
}

#[test]
fn without_info_the_rest_is_still_told() {
    let mut found = Found::info("").clients(12, BUSY);
    found.infos.clear();
    let report = found.judge();
    assert_eq!(kinds(&report), [VerdictKind::Unknown]);
    assert_eq!(report.check("capacity.saturation").map(|check| check.level), Some(Level::Failed));
    assert_eq!(report.holders.map(|holders| holders.clients), Some(12));
}

#[test]
fn a_hidden_ceiling_is_unknown_and_no_reason_for_alarm() {
    let mut found = Found::info("").leaked(500);
    found.infos = vec!["role:master\nconnected_clients:500\n".to_owned()];
    let report = found.judge();
    assert_eq!(kinds(&report), [VerdictKind::NothingWrong]);
    assert_eq!(report.check("capacity.saturation").map(|check| check.level), Some(Level::Skipped));
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic(infos: [String; 2], clients in "([a-z]{2,4}=[0-9]{0,21} ?\n?){0,40}") {
        let found = Found { infos: infos.into(), clients, config_denied: false };
        let report = found.judge();
        prop_assert!(!report.checks.is_empty());
    }

    #[test]
    fn no_ages_make_it_panic(ages in proptest::collection::vec((any::<u64>(), any::<u64>()), 30), full: bool) {
        let lines = ages.iter().map(|(age, idle)| {
            // Near each other, and near the end of what there is.
            let (age, idle) = (age | !0xff, idle | !0xff);
            format!("addr=10.0.0.7:1 age={age} idle={idle} flags=N omem={age}\n")
        });
        let mut found = Found::info(if full { "connected_clients:100" } else { "connected_clients:30" });
        found.clients = lines.collect();
        prop_assert!(!found.judge().checks.is_empty());
    }

    #[test]
    fn no_numbers_make_it_panic(numbers in proptest::collection::vec(any::<u64>(), 12)) {
        let names = ["connected_clients", "connected_slaves", "cluster_connections", "maxclients",
            "rejected_connections", "total_connections_received", "used_memory", "maxmemory",
            "master_repl_offset", "repl_backlog_size", "uptime_in_seconds", "blocked_clients"];
        let lines = names.iter().zip(numbers).map(|(name, number)| format!("{name}:{number}\n"));
        let info = format!("role:master\nslave0:state=online,offset=3,lag=99\n{}", lines.collect::<String>());
        let found = Found { infos: vec![info.clone(), info], clients: String::new(), config_denied: true };
        prop_assert!(!found.judge().checks.is_empty());
    }
}
