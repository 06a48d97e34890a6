//! Sentinels that say what a real one cannot be made to say.

use std::slice;
use std::time::Duration;

use tokio::time::Instant;

use crate::fake::{Fake, FakeBuilder, array, bulk};
use crate::run::Doctor;
use crate::support::{TestServer, pair};

/// What a sentinel knows of a server.
fn instance(name: &str, address: &str, flags: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let (ip, port) = address.rsplit_once(':').unwrap();
    let fields = [("name", name), ("ip", ip), ("port", port), ("flags", flags)];
    let fields = fields.iter().chain(more);
    array(&fields.flat_map(|(name, value)| [bulk(name), bulk(value)]).collect::<Vec<_>>())
}

fn at(server: &TestServer) -> String {
    format!("127.0.0.1:{}", server.port())
}

fn master_addr(address: &str) -> Vec<u8> {
    let (ip, port) = address.rsplit_once(':').unwrap();
    array(&[bulk(ip), bulk(port)])
}

const OK: &str = "+OK 3 usable Sentinels. Quorum and failover authorization can be reached\r\n";

/// A sentinel that watches one master, with the flags; others and replicas by address and flags.
fn sentinel(
    master: &str,
    flags: &str,
    sentinels: &[&str],
    replicas: &[(&str, &str)],
) -> FakeBuilder {
    let others = sentinels.len().to_string();
    let said =
        instance("mymaster", master, flags, &[("quorum", "2"), ("num-other-sentinels", &others)]);
    let listed = |kind: &str, all: Vec<Vec<u8>>| (kind.to_owned(), array(&all));
    let sentinels =
        sentinels.iter().map(|it| instance(it, it, "sentinel", &[("runid", it)])).collect();
    let replicas = replicas.iter().map(|(it, flags)| {
        let link = [("slave-priority", "100"), ("master-link-status", "ok")];
        instance(it, it, flags, &link)
    });
    let lists = [
        listed("SENTINEL MASTERS", vec![said.clone()]),
        listed("SENTINEL SENTINELS", sentinels),
        listed("SENTINEL REPLICAS", replicas.collect()),
    ];
    let fake = Fake::builder()
        .info("# Server\r\nredis_version:7.0.15\r\nredis_mode:sentinel\r\nconnected_clients:3\r\nmaxclients:10000\r\n")
        .reply("SENTINEL GET-MASTER-ADDR-BY-NAME", master_addr(master))
        .reply("SENTINEL CKQUORUM", OK)
        .reply("SENTINEL MYID", bulk("me"));
    let fake = lists.into_iter().fold(fake, |fake, (command, reply)| fake.reply(&command, reply));
    fake.reply("SENTINEL MASTER", said)
}

fn address(fake: &Fake) -> String {
    fake.url().replace("redis://", "")
}

#[test]
fn what_is_named_as_the_master_is_a_replica() {
    let (master, replica) = pair(TestServer::builder(), TestServer::builder()).unwrap();
    let fake = sentinel(&at(&replica), "master", &[], &[]).start();
    let report = Doctor::of(&[&fake.url()]).report_of(&[&master, &replica]);
    assert_eq!(report.code, 2, "{report}");
    let named = report.server(1);
    assert_eq!(named.verdict(), "not_master", "{report}");
    let said = named.check("sentinel.master").evidence;
    assert!(said.contains(&at(&master)), "whose: {said}");
}

#[test]
fn a_sentinel_is_named_as_the_master() {
    let inner = sentinel("127.0.0.1:1", "master", &[], &[]).start();
    let fake = sentinel(&address(&inner), "master", &[], &[]).start();
    let report = Doctor::of(&[&fake.url()]).report();
    assert_eq!((report.code, report.len()), (2, 2), "and no further: {report}");
    assert_eq!(report.server(1).verdict(), "not_master", "{report}");
}

#[test]
fn two_sentinels_name_two_masters() {
    let (master, replica) = pair(TestServer::builder(), TestServer::builder()).unwrap();
    let other = sentinel(&at(&replica), "master", &[], &[]).start();
    let one = sentinel(&at(&master), "master", &[&address(&other)], &[(&at(&replica), "slave")]);
    let one = one.start();
    let report = Doctor::of(&[&one.url()]).report_of(&[&master, &replica]);
    assert_eq!(report.code, 2, "{report}");
    let seen = report.server(1);
    assert_eq!(seen.verdict(), "sentinels_disagree", "{report}");
    let said = seen.check("sentinel.agreement").evidence;
    assert!(said.contains(&address(&other)) && said.contains("a replica, it says"), "{said}");
}

/// One that nobody else knows is asked what it is.
#[test]
fn two_sentinels_name_two_masters_that_know_nothing_of_each_other() {
    let servers = [(); 2].map(|()| TestServer::start().unwrap());
    let other = sentinel(&at(&servers[1]), "master", &[], &[]).start();
    let one = sentinel(&at(&servers[0]), "master", &[&address(&other)], &[]).start();
    let report = Doctor::of(&[&one.url()]).report_of(&[&servers[0], &servers[1]]);
    let said = report.server(1).check("sentinel.agreement").evidence;
    assert!(said.contains("(a master, it says"), "{said}");
}

#[test]
fn a_name_and_its_address_are_the_same_master() {
    let server = TestServer::start().unwrap();
    let other =
        sentinel(&at(&server).replace("127.0.0.1", "localhost"), "master", &[], &[]).start();
    let one = sentinel(&at(&server), "master", &[&address(&other)], &[]).start();
    let report = Doctor::of(&[&one.url()]).report_of(&[&server]);
    report.server(1).level("ok", &["sentinel.agreement"]);
}

#[test]
fn another_server_than_the_sentinels_mean_answers_under_the_address() {
    let info = "run_id:aaaaaaaaaaaaaaaa\r\nuptime_in_seconds:4000\r\nrole:master\r\n\
                connected_clients:1\r\nmaxclients:100\r\n";
    let answers = Fake::builder().info(info).start();
    let said = [("quorum", "1"), ("num-other-sentinels", "0"), ("runid", "bbbbbbbbbbbbbbbb")];
    let said = instance("mymaster", &address(&answers), "master", &said);
    let fake = Fake::builder()
        .reply("SENTINEL MASTERS", array(slice::from_ref(&said)))
        .reply("SENTINEL MASTER", said)
        .info("redis_mode:sentinel\r\n")
        .start();
    let report = Doctor::of(&[&fake.url()]).report();
    let check = report.server(1).level("failed", &["sentinel.master"]).check("sentinel.master");
    assert!(
        check.evidence.contains("aaaaaaaa") && check.evidence.contains("bbbbbbbb"),
        "{check:?}"
    );
    assert_eq!(report.server(1).verdict(), "not_master", "{report}");
}

#[test]
fn announced_addresses_that_cannot_be_reached_from_here() {
    let server = TestServer::start().unwrap();
    let fake = sentinel(
        &at(&server),
        "master",
        &["127.0.0.1:2"],
        &[("127.0.0.1:3", "slave"), ("127.0.0.1:4", "slave,s_down,disconnected")],
    );
    let report = Doctor::of(&[&fake.start().url()]).report_of(&[&server]);
    assert_eq!(report.code, 2, "{report}");
    let seen = report.server(1);
    assert!(seen.verdicts().contains(&"announced_unreachable"), "{report}");
    let said = seen.level("failed", &["sentinel.addresses"]).check("sentinel.addresses").evidence;
    for told in
        ["127.0.0.1:2, announced as a sentinel", "127.0.0.1:3, announced as a replica", "refused"]
    {
        assert!(said.contains(told), "{said}");
    }
    assert!(!said.contains("127.0.0.1:4"), "it is down: {said}");
}

#[test]
fn a_master_that_only_the_sentinels_reach() {
    let fake = sentinel("127.0.0.1:2", "master", &[], &[]).start();
    let report = Doctor::of(&[&fake.url()]).report();
    assert_eq!(report.code, 3, "{report}");
    let verdicts = report.server(1).verdicts();
    assert_eq!(verdicts[..2], ["announced_unreachable", "refused"], "{report}");
}

#[test]
fn a_failover_that_is_under_way() {
    let server = TestServer::start().unwrap();
    for (flags, level) in [
        ("master,failover_in_progress,force_failover", "warning"),
        ("master,s_down,o_down,failover_in_progress", "failed"),
    ] {
        let fake = sentinel(&at(&server), flags, &[], &[]).start();
        let report = Doctor::of(&[&fake.url()]).report_of(&[&server]);
        let seen = report.server(1);
        let check = seen.level(level, &["sentinel.state"]).check("sentinel.state");
        assert!(check.evidence.contains("under way"), "{check:?}");
    }
}

#[test]
fn a_replica_whose_link_is_down() {
    let (master, replica) = pair(TestServer::builder(), TestServer::builder()).unwrap();
    let lone = TestServer::start().unwrap();
    master.crash();
    let down = || {
        let info = replica.admin().text(&["INFO", "replication"]);
        info.contains("master_link_status:down").then_some(())
    };
    crate::support::server::poll(crate::IDLE_LIMIT, down).expect("the link is down");
    let fake = sentinel(&at(&lone), "master", &[], &[(&at(&replica), "slave")]).start();
    let report = Doctor::of(&[&fake.url()]).report();
    let check = report.server(1).level("failed", &["sentinel.replicas"]).check("sentinel.replicas");
    assert!(check.evidence.contains("link to the master is down"), "{check:?}");
}

#[test]
fn sentinels_that_deny_hang_and_talk_nonsense() {
    let server = TestServer::start().unwrap();
    let noperm = "-NOPERM this user has no permissions to run the 'sentinel' command\r\n";
    let denies = Fake::builder().info("redis_mode:sentinel\r\n").reply("SENTINEL", noperm).start();
    let nonsense = Fake::builder().info("redis_mode:sentinel\r\n").reply("SENTINEL", ":42\r\n");
    let nonsense = nonsense.start();
    // No answer at all to what it is asked.
    let hangs = Fake::builder().info("redis_mode:sentinel\r\n").reply("SENTINEL", "").start();
    let others = [&denies, &nonsense, &hangs].map(address);
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let fake = sentinel(&at(&server), "master", &others, &[]).start();

    let begun = Instant::now();
    let report = Doctor::of(&[&fake.url(), "--timeout", "1s"]).report_of(&[&server]);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());

    let master = report.server(1);
    master.level("warning", &["sentinel.agreement"]);
    let said = master.check("sentinel.agreement").evidence;
    for told in others.iter().chain(&["NOPERM", "another form", "no answer in time"]) {
        assert!(said.contains(told), "{told}: {said}");
    }
    report.server(1).level("ok", &["sentinel.master", "sentinel.addresses"]);
}

#[test]
fn a_sentinel_that_denies_tells_by_its_info() {
    let server = TestServer::start().unwrap();
    let noperm = "-NOPERM this user has no permissions to run the 'sentinel' command\r\n";
    let lines =
        format!("master0:name=mymaster,status=ok,address={},slaves=0,sentinels=3", at(&server));
    let told = Fake::builder().info(format!("redis_mode:sentinel\r\n{lines}\r\n"));
    let report = Doctor::of(&[&told.reply("SENTINEL", noperm).start().url()]).report_of(&[&server]);
    assert_eq!(report.len(), 2, "{report}");
    report.server(0).level("warning", &["sentinel.watched"]);
    report.server(1).level("ok", &["sentinel.master"]).level("warning", &["sentinel.agreement"]);

    let info = "redis_mode:sentinel\r\nconnected_clients:1\r\n";
    let silent = Fake::builder().info(info).reply("SENTINEL", noperm).start();
    let report = Doctor::of(&[&silent.url()]).report();
    let sentinel = report.is(2, "checks_failed");
    assert!(sentinel.says("checks_failed").contains("NOPERM"), "{report}");
}

#[test]
fn a_sentinel_that_stops_answering() {
    let fake =
        Fake::builder().info("redis_mode:sentinel\r\n").reply("SENTINEL MASTERS", "").start();
    let report = Doctor::of(&[&fake.url(), "--timeout", "500ms"]).report();
    report.is(2, "unresponsive");
}

#[test]
fn names_and_lists_that_are_garbage() {
    let server = TestServer::start().unwrap();
    let evil = "evil\u{1b}[2J";
    let said = instance(evil, &at(&server), "master,\u{1b}[0m", &[("quorum", "-1")]);
    let port_0 = instance("x", "10.0.0.1:0", "slave", &[]);
    let fake = Fake::builder()
        .info("redis_mode:sentinel\r\n")
        .reply("SENTINEL MASTERS", array(&[said, array(&[bulk("ip")]), b"$-1\r\n".to_vec()]))
        .reply("SENTINEL REPLICAS", array(&[port_0]))
        .reply("SENTINEL SENTINELS", "*-1\r\n")
        .start();
    for format in ["json", "text"] {
        let url = fake.url();
        let ended = Doctor::words(&["doctor", "--output", format, &url]).run();
        assert!(!ended.stdout.contains('\u{1b}'), "{ended:#?}");
        assert_eq!(ended.code, 2, "{ended:#?}");
    }
}

#[test]
fn each_of_the_others_is_dialed_once_for_all_masters() {
    let servers = [(); 2].map(|()| TestServer::start().unwrap());
    let other = sentinel("127.0.0.1:1", "master", &[], &[]).start();
    let masters = ["one", "two"].iter().zip(&servers);
    let masters = masters.map(|(name, server)| instance(name, &at(server), "master", &[]));
    let listed = instance("other", &address(&other), "sentinel", &[]);
    let fake = Fake::builder()
        .info("redis_mode:sentinel\r\n")
        .reply("SENTINEL MASTERS", array(&masters.collect::<Vec<_>>()))
        .reply("SENTINEL SENTINELS", array(&[listed]))
        .reply("SENTINEL REPLICAS", array(&[]))
        .start();
    let report = Doctor::of(&[&fake.url()]).report();
    assert_eq!(report.len(), 3, "{report}");
    assert_eq!((fake.accepted(), other.accepted()), (1, 1));
}
