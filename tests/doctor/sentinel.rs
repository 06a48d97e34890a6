//! From a sentinel's URL to the master, and what the sentinels say of it.

use std::net::TcpStream;

use serde_json::Value;

use crate::run::{Doctor, OWN_NAME, SECRET, Server};
use crate::support::sentinel::{SentinelSet, SentinelSetBuilder};
use crate::support::server::poll;
use crate::support::{Crowd, TestServer};

const OF_A_SET: [&str; 8] = [
    "sentinel.master",
    "sentinel.state",
    "sentinel.agreement",
    "sentinel.quorum",
    "sentinel.replicas",
    "sentinel.room",
    "sentinel.addresses",
    "sentinel.capacity",
];

/// Returns when the first sentinel's field of the master is so.
#[track_caller]
fn until(set: &SentinelSet, question: &[&str], so: impl Fn(&str) -> bool) {
    let mut said = String::new();
    let seen = poll(crate::IDLE_LIMIT, || {
        let reply = set.sentinel(0).admin().command(question).ok()?;
        said = reply.text();
        so(&said).then_some(())
    });
    seen.unwrap_or_else(|| panic!("{question:?} says {said}"));
}

/// One whose sentinels notice what goes.
#[track_caller]
fn watchful(builder: SentinelSetBuilder) -> SentinelSet {
    builder.down_after_ms(2_000).start().unwrap()
}

/// The doctor, on a machine that may be busy.
fn doctor(words: &[&str]) -> Doctor {
    Doctor::of(words).args(&["--timeout", "60s"])
}

fn servers(set: &SentinelSet) -> Vec<&TestServer> {
    set.servers().iter().collect()
}

fn told<'a>(server: &Server<'a>, pointer: &str) -> &'a Value {
    server.json.pointer(pointer).unwrap_or_else(|| panic!("no {pointer}: {}", server.report()))
}

#[test]
fn a_sentinel_leads_to_its_master_and_all_is_well() {
    let set = SentinelSet::start().unwrap();
    let report = doctor(&[&set.sentinels()[0]]).report_of(&servers(&set));

    assert_eq!((report.code, report.len()), (0, 2), "{report}");
    let (sentinel, master) = (report.server(0), report.server(1));
    assert_eq!(sentinel.verdict(), "nothing_wrong", "{report}");
    sentinel.level("ok", &["sentinel.watched"]);
    assert_eq!(*told(&sentinel, "/watched_masters/0/name"), "mymaster");
    assert_eq!(*told(&sentinel, "/sentinel"), Value::Null);

    assert_eq!(master.json["server"], *set.address(0), "{report}");
    assert_eq!(master.verdict(), "nothing_wrong", "{report}");
    master.level("ok", &OF_A_SET).level("ok", &["replication.role", "replication.replicas"]);
    master.shows("sentinel.quorum", 3);
    assert_eq!(*told(&master, "/snapshot/role"), "master", "it is examined itself: {report}");
    assert_eq!(*told(&master, "/sentinel/master"), "mymaster");
    assert_eq!(*told(&master, "/sentinel/quorum"), 2);
    for nth in 0..3 {
        let sentinel = told(&master, &format!("/sentinel/sentinels/{nth}"));
        assert_eq!(sentinel["master"], *set.address(0), "{report}");
        assert_eq!(sentinel["can_fail_over"], true, "{report}");
        assert!(sentinel["maxclients"].as_u64().is_some(), "{report}");
    }
    for nth in 0..2 {
        let replica = told(&master, &format!("/sentinel/replicas/{nth}"));
        assert_eq!(
            (&replica["role"], &replica["master_link_up"]),
            (&"replica".into(), &true.into())
        );
        assert_eq!(replica["priority"], 100, "{report}");
    }
}

#[test]
fn three_sentinels_of_a_set_lead_to_one_master() {
    let set = SentinelSet::start().unwrap();
    let urls = set.sentinels();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let report = doctor(&urls).report_of(&servers(&set));
    assert_eq!((report.code, report.len()), (0, 4), "{report}");
    assert_eq!(*told(&report.server(3), "/sentinel/named_by"), report.server(0).json["server"]);
}

#[test]
fn all_masters_of_a_sentinel_or_the_one_that_is_asked_for() {
    let set = SentinelSet::start().unwrap();
    let other = TestServer::start().unwrap();
    set.also_watch("sessions", &other);
    let url = &set.sentinels()[0];

    let report = doctor(&[url]).report();
    assert_eq!(report.len(), 3, "{report}");
    let mut names = [1, 2].map(|nth| told(&report.server(nth), "/sentinel/master").to_string());
    names.sort();
    assert_eq!(names, ["\"mymaster\"", "\"sessions\""]);

    let report = doctor(&[url, "--master", "sessions"]).report();
    assert_eq!((report.code, report.len()), (2, 2), "{report}");
    let alone = report.server(1);
    assert_eq!(alone.verdict(), "no_failover", "it has no replica: {report}");
    assert_eq!(alone.of_level("failed"), ["sentinel.replicas"], "{report}");

    let report = doctor(&[url, "--master", "orders"]).report();
    let sentinel = report.is(2, "checks_failed");
    assert_eq!(sentinel.of_level("failed"), ["sentinel.watched"]);
    let said = sentinel.check("sentinel.watched").evidence;
    assert!(said.contains("orders"), "{said}");
    for known in ["mymaster", "sessions"] {
        assert!(said.contains(known), "what there is: {said}");
    }
    // Before a set goes that watches it.
    drop(set);
}

#[test]
fn credentials_for_the_servers_are_not_the_sentinels() {
    let set = SentinelSet::builder()
        .replicas(1)
        .server_password(SECRET)
        .sentinel_password("for-sentinels")
        .start()
        .unwrap();
    let url = &set.sentinels()[0];

    let refused = doctor(&[url]).report();
    assert_eq!((refused.code, refused.len()), (3, 2), "{refused}");
    assert_eq!(refused.server(1).verdict(), "auth_failed", "{refused}");
    assert!(refused.server(1).advice().contains("--connect-as"), "{refused}");

    let as_app = format!("redis://:{SECRET}@any");
    let in_url = doctor(&[url, "--connect-as", &as_app]);
    // A URL without a password takes it from the environment, and the sentinel's keeps its own.
    let in_env = doctor(&[url, "--connect-as", "redis://any"]).env("REDISCLI_AUTH", SECRET);
    for doctor in [in_url, in_env] {
        let ended = doctor.run();
        assert!(!format!("{ended:?}").contains("for-sentinels"), "{ended:#?}");
        let report = ended.report();
        assert_eq!((report.code, report.len()), (0, 2), "{report}");
        report.server(1).level("ok", &OF_A_SET);
    }
}

#[test]
fn a_password_of_the_servers_alone_is_kept_from_the_sentinels() {
    let set = SentinelSet::builder().replicas(1).server_password(SECRET).start().unwrap();
    let doctor = doctor(&[&set.sentinels()[0], "--connect-as", "redis://any"]);
    let report = doctor.env("REDISCLI_AUTH", SECRET).report();
    assert_eq!((report.code, report.len()), (0, 2), "{report}");
}

#[test]
fn a_sentinel_that_has_no_password_says_how_to_keep_it_for_the_servers() {
    let set =
        SentinelSet::builder().replicas(1).sentinels(1).server_password(SECRET).start().unwrap();
    let report = doctor(&[&set.sentinels()[0]]).env("REDISCLI_AUTH", SECRET).report();
    assert!(report.is(3, "auth_failed").advice().contains("--connect-as"), "{report}");
}

#[test]
fn a_masters_name_where_there_is_no_sentinel() {
    let server = TestServer::start().unwrap();
    let report = doctor(&[&server.url(), "--master", "mymaster"]).report_of(&[&server]);
    report.is(0, "nothing_wrong").level("warning", &["sentinel.watched"]);
}

#[test]
fn a_set_that_speaks_tls() {
    if crate::support::lacks_tls() {
        return;
    }
    let set = SentinelSet::builder().replicas(1).tls(true).start().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), set.server(0).ca_pem()).unwrap();
    let ca = file.path().to_str().unwrap();
    let url = &set.tls_sentinels()[0];
    let plain = Doctor::of(&[url, "--cacert", ca, "--timeout", "2s"]).report();
    assert_eq!((plain.code, plain.len()), (3, 2), "{plain}");
    assert!(plain.server(1).advice().contains("--connect-as rediss://"), "{plain}");

    let report = doctor(&[url, "--connect-as", "rediss://any", "--cacert", ca]).report();
    assert_eq!((report.code, report.len()), (0, 2), "{report}");
    report.server(1).level("ok", &OF_A_SET);
}

#[test]
fn a_url_to_connect_as_that_is_none() {
    for url in [format!("redis://user:{SECRET}@host:port"), SECRET.to_owned()] {
        let ended = doctor(&["redis://127.0.0.1:1", "--connect-as", &url]).run();
        assert_eq!(ended.code, 64, "{ended:#?}");
        assert!(ended.stderr.contains("--connect-as"), "{ended:#?}");
    }
}

#[test]
fn sentinels_too_few_to_fail_over() {
    let set = watchful(SentinelSet::builder());
    for gone in [1, 2] {
        set.sentinel(gone).crash();
    }
    until(&set, &["SENTINEL", "CKQUORUM", "mymaster"], |said| said.starts_with("NOQUORUM"));
    until(&set, &["SENTINEL", "SENTINELS", "mymaster"], |said| said.matches("s_down").count() == 2);
    let report = doctor(&[&set.sentinels()[0]]).report_of(&servers(&set));

    assert_eq!(report.code, 2, "{report}");
    let master = report.server(1);
    assert_eq!(master.verdicts(), ["no_failover"], "{report}");
    assert_eq!(master.of_level("failed"), ["sentinel.quorum"], "{report}");
    let said = master.check("sentinel.quorum").evidence;
    for port in [1, 2].map(|gone| set.sentinel(gone).port().to_string()) {
        assert!(said.contains(&port), "who is down: {said}");
    }
}

#[test]
fn one_sentinel_less_than_there_should_be() {
    let set = watchful(SentinelSet::builder());
    set.sentinel(2).crash();
    until(&set, &["SENTINEL", "SENTINELS", "mymaster"], |said| said.contains("s_down"));
    let report = doctor(&[&set.sentinels()[0]]).report_of(&servers(&set));
    assert_eq!((report.code, report.server(1).verdict()), (0, "nothing_wrong"), "{report}");
    report.server(1).level("warning", &["sentinel.quorum"]).level("ok", &["sentinel.agreement"]);
}

#[test]
fn two_sentinels_of_which_neither_may_be_lost() {
    let set = SentinelSet::builder().sentinels(2).replicas(1).start().unwrap();
    let report = doctor(&[&set.sentinels()[0]]).report_of(&servers(&set));
    let check = report.server(1).level("warning", &["sentinel.quorum"]).check("sentinel.quorum");
    assert!(check.fix.is_some_and(|fix| fix.contains("three sentinels")), "{check:?}");
}

#[test]
fn a_quorum_of_more_than_there_are() {
    let set = SentinelSet::builder().replicas(1).start().unwrap();
    set.sentinel(0).admin().text(&["SENTINEL", "SET", "mymaster", "quorum", "5"]);
    let report = doctor(&[&set.sentinels()[0]]).report_of(&servers(&set));
    let master = report.server(1);
    assert_eq!(master.verdicts(), ["no_failover"], "{report}");
    master.shows("sentinel.quorum", 5);

    // Seen from one that has the old one, two disagree.
    let report = doctor(&[&set.sentinels()[1]]).report_of(&servers(&set));
    let said = report.server(1).level("warning", &["sentinel.quorum"]).check("sentinel.quorum");
    assert!(said.evidence.contains("quorum 5"), "{said:?}");
}

#[test]
fn a_sentinel_that_does_not_know_the_master() {
    let set = SentinelSet::builder().replicas(1).start().unwrap();
    set.sentinel(2).admin().text(&["SENTINEL", "REMOVE", "mymaster"]);
    let report = doctor(&[&set.sentinels()[0]]).report_of(&servers(&set));
    assert_eq!(report.code, 2, "{report}");
    let master = report.server(1);
    assert_eq!(master.verdict(), "sentinels_disagree", "{report}");
    let said = master.check("sentinel.agreement").evidence;
    assert!(said.contains(&set.sentinel(2).port().to_string()), "who: {said}");
}

#[test]
fn a_master_that_is_down_and_has_no_replica() {
    let set = watchful(SentinelSet::builder().replicas(0));
    set.server(0).crash();
    until(&set, &["SENTINEL", "MASTER", "mymaster"], |said| said.contains("o_down"));
    let report = doctor(&[&set.sentinels()[0]]).report();
    assert_eq!((report.code, report.len()), (3, 2), "{report}");
    let master = report.server(1);
    assert_eq!(master.verdicts(), ["master_down", "refused", "no_failover"], "{report}");
    master.level("failed", &["sentinel.state", "sentinel.replicas"]);
    master.level("ok", &["sentinel.addresses", "sentinel.agreement"]);
}

#[test]
fn replicas_that_would_not_be_chosen() {
    let set = watchful(SentinelSet::builder());
    let admin = |nth: usize| set.server(nth).admin();
    admin(1).text(&["CONFIG", "SET", "replica-priority", "0"]);
    let report = doctor(&[&set.sentinels()[0]]).report_of(&servers(&set));
    assert_eq!(report.code, 0, "one of two may be a backup's: {report}");
    report.server(1).level("note", &["sentinel.replicas"]);

    set.server(2).crash();
    until(&set, &["SENTINEL", "REPLICAS", "mymaster"], |said| said.contains("s_down"));
    let report = doctor(&[&set.sentinels()[0]]).report();
    let master = report.server(1);
    assert!(master.verdicts().contains(&"no_failover"), "{report}");
    let said = master.level("failed", &["sentinel.replicas"]).check("sentinel.replicas").evidence;
    assert!(said.contains("priority is 0") && said.contains("s_down"), "{said}");
    master.level("ok", &["sentinel.addresses"]);
}

#[test]
fn a_replica_with_less_room_than_the_master_needs() {
    let set = SentinelSet::builder().replicas(1).server(crate::server()).start().unwrap();
    let _clients = Crowd::from(set.server(0), 2).named("app").open(40).busy();
    set.server(1).admin().text(&["CONFIG", "SET", "maxclients", "30"]);
    let report = doctor(&[&set.sentinels()[0]]).report_of(&servers(&set));
    let master = report.server(1);
    master.level("warning", &["sentinel.room"]).shows("sentinel.room", 30);
}

#[test]
fn a_replica_that_is_full() {
    let set = SentinelSet::builder().replicas(1).start().unwrap();
    set.server(1).admin().text(&["CONFIG", "SET", "maxclients", "20"]);
    let _occupants = set.server(1).fill();
    let report = doctor(&[&set.sentinels()[0]]).report();
    assert_eq!(report.code, 2, "{report}");
    let said = report.server(1).level("failed", &["sentinel.room"]).check("sentinel.room");
    assert!(said.evidence.contains("max number of clients reached"), "{said:?}");
}

#[test]
fn a_sentinel_that_fills_up() {
    let limited = TestServer::builder().maxclients(40);
    let set = SentinelSet::builder().replicas(1).sentinel(limited).start().unwrap();
    let full = set.sentinel(2);
    let clients = || full.admin().client_list().len();
    let connect = || TcpStream::connect(("127.0.0.1", full.port())).unwrap();
    let occupants: Vec<_> = (clients()..37).map(|_| connect()).collect();
    poll(crate::IDLE_LIMIT, || (clients() >= 37).then_some(())).expect("they are let in");
    let report = doctor(&[&set.sentinels()[0]]).report_of(&servers(&set));
    let master = report.server(1);
    let check = master.level("failed", &["sentinel.capacity"]).check("sentinel.capacity");
    assert!(check.evidence.contains(&full.port().to_string()), "{check:?}");
    drop(occupants);
}

#[test]
fn a_sentinel_that_hangs_is_a_line_and_the_rest_goes_on() {
    let set = SentinelSet::builder().replicas(1).start().unwrap();
    set.sentinel(1).pause();
    let report = Doctor::of(&[&set.sentinels()[0], "--timeout", "2s"]).report_of(&servers(&set));
    set.sentinel(1).resume();
    let master = report.server(1);
    let check = master.level("warning", &["sentinel.agreement"]).check("sentinel.agreement");
    assert!(check.evidence.contains(&set.sentinel(1).port().to_string()), "{check:?}");
    let sentinels = told(&master, "/sentinel/sentinels").as_array().expect("a list");
    let connected = sentinels.iter().filter(|sentinel| sentinel["connected"] == true);
    assert_eq!(connected.count(), 2, "{report}");
}

#[test]
fn a_dead_sentinel_beside_one_that_lives() {
    let set = SentinelSet::builder().replicas(1).start().unwrap();
    let report = doctor(&["redis://127.0.0.1:1", &set.sentinels()[0]]).report();
    assert_eq!((report.code, report.len()), (3, 3), "{report}");
    let verdicts = [0, 1, 2].map(|nth| report.server(nth).verdict());
    assert_eq!(verdicts, ["refused", "nothing_wrong", "nothing_wrong"], "{report}");
}

#[test]
fn after_a_failover_it_leads_to_the_new_master() {
    let set = watchful(SentinelSet::builder());
    set.fail_over();
    let new = set.moved_from(0);
    set.until_whole();
    // A server that is made another hangs up, on the test's own connection too.
    let report = doctor(&[&set.sentinels()[0]]).report();
    assert_eq!(report.code, 0, "{report}");
    assert_eq!(report.server(1).json["server"], *set.address(new), "{report}");
}

#[test]
fn as_text_the_master_says_whose_it_is() {
    let set = SentinelSet::builder().replicas(1).start().unwrap();
    let ended = Doctor::words(&["doctor", &set.sentinels()[0]]).run();
    assert_eq!(ended.code, 0, "{ended:#?}");
    let at = format!("mymaster of the sentinel 127.0.0.1:{}", set.sentinel(0).port());
    assert!(ended.stdout.contains(&at), "{ended:#?}");
    let gone = || (set.sentinel(0).admin().clients_named(OWN_NAME) == 0).then_some(());
    poll(crate::IDLE_LIMIT, gone).expect("no connection is left behind");
}

#[test]
fn a_master_that_is_down_while_too_few_sentinels_are_left() {
    let set = watchful(SentinelSet::builder().replicas(1));
    for gone in [1, 2] {
        set.sentinel(gone).crash();
    }
    until(&set, &["SENTINEL", "CKQUORUM", "mymaster"], |said| said.starts_with("NOQUORUM"));
    set.server(0).crash();
    until(&set, &["SENTINEL", "MASTER", "mymaster"], |said| said.contains("s_down"));
    let report = doctor(&[&set.sentinels()[0]]).report();
    let master = report.server(1);
    assert_eq!(master.verdicts(), ["master_down", "refused", "no_failover"], "{report}");
    // The link of a replica to a master that is down is down.
    master.level("failed", &["sentinel.quorum"]).level("ok", &["sentinel.replicas"]);
}
