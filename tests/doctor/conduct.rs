//! How the doctor behaves on the servers that it examines.

use std::collections::BTreeMap;

use crate::run::{Doctor, OWN_NAME};
use crate::support::server::poll;
use crate::support::{Cluster, Crowd, SEVEN, TestServer, lacks};

/// How often each command was called.
fn calls(server: &TestServer) -> BTreeMap<String, u64> {
    let stats = server.admin().text(&["INFO", "commandstats"]);
    let lines = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(':'));
    lines
        .map(|(command, stats)| {
            let calls = stats.split(',').find_map(|it| it.strip_prefix("calls=")).unwrap();
            (command.to_owned(), calls.parse().unwrap())
        })
        .collect()
}

/// What the doctor called, on a server where nobody else does anything.
fn called(server: &TestServer, args: &[&str]) -> BTreeMap<String, u64> {
    let before = calls(server);
    let url = server.url();
    Doctor::of(&[&url]).args(args).run();
    // The second look at the statistics counts the first.
    let mut called = calls(server);
    *called.get_mut("info").unwrap() -= 1;
    called.retain(|command, calls| {
        *calls -= before.get(command).copied().unwrap_or(0);
        *calls > 0
    });
    called
}

const READS: [&str; 17] = [
    "ping",
    "time",
    "info",
    "client|id",
    "client|list",
    // What a connection says of itself.
    "client|setname",
    "client|setinfo",
    "hello",
    "config|get",
    "slowlog|len",
    "slowlog|get",
    "command",
    "cluster|info",
    "cluster|nodes",
    "cluster|slots",
    "cluster|myid",
    "latency|latest",
];

#[track_caller]
fn reads_only(called: &BTreeMap<String, u64>) {
    // An older server counts no subcommands.
    let in_part = lacks("statistics by subcommand", SEVEN);
    let known = |name: &str| {
        let whole = |read: &str| read == name || in_part && read.split('|').next() == Some(name);
        READS.iter().any(|read| whole(read))
    };
    let strange: Vec<_> = called.keys().filter(|name| !known(name)).collect();
    assert!(strange.is_empty(), "{strange:?} among {called:?}");
    if in_part {
        return;
    }
    assert!(called["client|list"] <= 2, "the server builds it in one go: {called:?}");
}

#[test]
fn a_healthy_server_is_only_read() {
    let server = crate::server().start().unwrap();
    reads_only(&called(&server, &[]));
}

#[test]
fn a_sick_server_is_only_read_though_there_is_much_to_mend() {
    let server = crate::server().maxclients(30).arg("tcp-keepalive", "0").start().unwrap();
    let pool = Crowd::from(&server, 2).named("api").open(27);
    crate::until_idle(&server, &[pool.source()], 1);
    reads_only(&called(&server, &["--idle-after", "1s"]));
    assert_eq!(server.admin().maxclients(), 30);
    let list = server.admin().client_list();
    assert_eq!(list.len(), 28, "nobody was killed");
}

#[test]
fn the_nodes_of_a_cluster_are_only_read_over_one_connection_each() {
    let cluster = Cluster::start(2, &crate::server()).unwrap();
    let [asked, found] = [0, 1].map(|index| cluster.node(index));
    let accepted = || found.admin().info_u64("total_connections_received");
    let before = (calls(found), accepted());
    reads_only(&called(asked, &[]));
    assert_eq!(accepted(), before.1 + 1);
    let mut since = calls(found);
    since.retain(|command, calls| *calls > before.0.get(command).copied().unwrap_or(0));
    reads_only(&since);
}

#[test]
fn one_connection_for_one_server() {
    let server = crate::server().start().unwrap();
    let before = server.admin().info_u64("total_connections_received");
    Doctor::of(&[&server.url()]).report();
    assert_eq!(server.admin().info_u64("total_connections_received"), before + 1);
}

#[test]
fn its_connection_has_a_name_and_is_there_throughout() {
    let server = crate::server().start().unwrap();
    let doctor = Doctor::words(&["doctor", &server.url(), "--sample", "1s"]).spawn();
    let there = || (server.admin().clients_named(OWN_NAME) == 1).then_some(());
    poll(crate::IDLE_LIMIT, there).expect("the operator sees who it is");
    let id = || {
        let mut list = server.admin().client_list().into_iter();
        list.find(|client| client["name"] == OWN_NAME).map(|client| client["id"].clone())
    };
    let first = id();
    let mut seen = 0;
    while let Some(now) = id() {
        assert_eq!(Some(now), first, "it is always the same");
        assert!(server.admin().clients_named(OWN_NAME) <= 1);
        seen += 1;
    }
    assert!(seen > 1, "it was looked at more than once");
    assert_eq!(doctor.end().code, 0);
}

/// Those who wait are told one after another, but the samples are taken at the same time.
#[test]
fn several_servers_are_examined_at_once() {
    let servers = [(); 4].map(|()| crate::server().start().unwrap());
    let urls = servers.each_ref().map(TestServer::url);
    let urls = urls.each_ref().map(String::as_str);
    let doctor =
        Doctor::words(&["doctor", "--sample", "1h", "--output", "json"]).args(&urls).spawn();
    // One after another it would come to the second after an hour.
    let everywhere = || {
        let mut servers = servers.iter();
        servers.all(|server| server.admin().clients_named(OWN_NAME) == 1).then_some(())
    };
    poll(crate::IDLE_LIMIT, everywhere).expect("the doctor is at all of them");
    doctor.interrupt();
    doctor.end_of_any_kind();
}

#[test]
fn the_same_server_twice_is_examined_with_two_connections_at_most() {
    let server = crate::server().start().unwrap();
    let url = server.url();
    let report = Doctor::of(&[&url, &url]).report_of(&[&server]);
    assert_eq!((report.code, report.len()), (0, 2), "{report}");
}

#[test]
fn a_connection_given_up_is_closed() {
    let server = crate::server().start().unwrap();
    let doctor = Doctor::words(&["doctor", &server.url(), "--sample", "20s"]).spawn();
    let there = |count| (server.admin().clients_named(OWN_NAME) == count).then_some(());
    poll(crate::IDLE_LIMIT, || there(1)).expect("the doctor comes");
    doctor.interrupt();
    let ended = doctor.end_of_any_kind();
    poll(crate::IDLE_LIMIT, || there(0)).expect("the doctor goes");
    assert!(ended.stdout.is_empty(), "{ended:#?}");
}
