//! The URL of one node leads to all nodes of its cluster.

use std::time::Duration;

use redis_guard::GuardedPool;
use redis_guard::doctor::VerdictKind;
use serde_json::Value;

use crate::fake::{Fake, array, bulk};
use crate::run::{Doctor, Report, SECRET, Server};
use crate::support::server::{TestServerBuilder, poll};
use crate::support::{Auth, Cluster, Crowd, Resp, SEVEN, TestServer, Transport, lacks};

/// The checks of a cluster.
const OF_A_CLUSTER: [&str; 9] = [
    "cluster.nodes",
    "cluster.state",
    "cluster.agreement",
    "cluster.migrations",
    "cluster.addresses",
    "cluster.replicas",
    "cluster.connections",
    "cluster.maxclients",
    "cluster.links",
];

fn settings() -> TestServerBuilder {
    crate::server().maxclients(200)
}

/// Masters that notice within a second that one is gone.
fn watchful() -> TestServerBuilder {
    settings().arg("cluster-node-timeout", "1000")
}

fn doctor(cluster: &Cluster, args: &[&str]) -> Doctor {
    Doctor::of(&[&cluster.node(0).url()]).args(args)
}

/// Those that run.
fn servers(cluster: &Cluster) -> Vec<&TestServer> {
    cluster.nodes().iter().filter(|node| node.is_running()).collect()
}

/// The report of the node at this number.
#[track_caller]
fn report_of<'a>(report: &'a Report, cluster: &Cluster, index: usize) -> Server<'a> {
    let all = (0..report.len()).map(|nth| report.server(nth));
    let mut of = all.filter(|server| server.json["server"] == *cluster.address(index));
    of.next().unwrap_or_else(|| panic!("node {index} has no report: {report}"))
}

fn nodes<'a>(server: &Server<'a>) -> &'a Vec<Value> {
    server.json["cluster"]["nodes"].as_array().unwrap_or_else(|| panic!("{}", server.report()))
}

#[track_caller]
fn until_said(cluster: &Cluster, by: usize, command: &[&str], words: &str) {
    let admin = cluster.node(by).admin();
    let said = || admin.text(command).contains(words).then_some(());
    poll(crate::IDLE_LIMIT, said).unwrap_or_else(|| panic!("{words}: {}", admin.text(command)));
}

#[test]
fn one_url_leads_to_all_nodes_and_all_is_well() {
    let cluster = Cluster::with_replicas(3, 1, &settings()).unwrap();
    let _busy = Crowd::from(cluster.node(4), 2).named("reports").open(50).busy();
    let report = doctor(&cluster, &["--strict"]).report_of(&servers(&cluster));
    assert_eq!((report.code, report.len()), (0, 6), "{report}");
    let first = report.server(0);
    assert_eq!(first.verdicts(), ["nothing_wrong"], "{report}");
    first.level("ok", &OF_A_CLUSTER).shows("cluster.links", 10).shows("cluster.state", 16_384);
    assert_eq!(first.json["cluster"]["state"], "ok");
    assert_eq!(first.json["named_by"], Value::Null);

    // The worst first: here the fullest.
    assert_eq!(nodes(&first)[0]["server"], *cluster.address(4), "{report}");
    assert_eq!(report.server(1).json["server"], *cluster.address(4), "{report}");
    assert_eq!(nodes(&first)[0]["replica_of"], *cluster.address(1), "{report}");
    for node in nodes(&first) {
        let index = cluster.number_of(node["server"].as_str().unwrap()).expect("one of them");
        let role = if index < 3 { "master" } else { "replica" };
        assert_eq!((&node["role"], &node["connected"]), (&role.into(), &true.into()), "{report}");
        let seen = report_of(&report, &cluster, index);
        assert_eq!(seen.json["snapshot"]["role"], role, "it was examined itself");
        assert_eq!(seen.number("/capacity/used"), node["used"].as_u64().unwrap());
        if index > 0 {
            assert_eq!(seen.json["named_by"], first.json["server"], "{report}");
            assert_eq!(seen.json["cluster"], Value::Null, "said once: {report}");
        }
    }
}

#[test]
fn urls_of_several_nodes_lead_to_each_once() {
    let cluster = Cluster::with_replicas(2, 1, &settings()).unwrap();
    let by_name = cluster.node(2).url().replace("127.0.0.1", "localhost");
    let url = cluster.node(0).url();
    let report = Doctor::of(&[&by_name, &url]).report_of(&servers(&cluster));
    assert_eq!((report.code, report.len()), (0, 4), "{report}");
    report.server(0).level("ok", &OF_A_CLUSTER);
    assert_eq!(report.server(1).json["cluster"], Value::Null, "{report}");
}

#[test]
fn a_master_whose_replica_is_gone() {
    let cluster = Cluster::with_replicas(3, 1, &watchful()).unwrap();
    cluster.node(4).crash();
    until_said(&cluster, 0, &["CLUSTER", "NODES"], "slave,fail ");
    let report = doctor(&cluster, &[]).report_of(&servers(&cluster));
    assert_eq!((report.code, report.len()), (3, 6), "{report}");
    let first = report.server(0);
    assert_eq!(first.verdict(), "no_failover", "{report}");
    first.level("failed", &["cluster.replicas"]).level("warning", &["cluster.state"]);
    first.level("ok", &["cluster.agreement", "cluster.addresses", "cluster.links"]);
    let said = first.check("cluster.replicas").evidence;
    assert!(said.contains(&cluster.address(1)) && said.contains(&cluster.address(4)), "{said}");
    assert_eq!(report.server(1).verdict(), "refused", "the worst first: {report}");
    assert_eq!(nodes(&first)[0]["server"], *cluster.address(4), "{report}");
}

#[test]
fn replicas_that_are_asked_for_are_each_masters() {
    let cluster = Cluster::start(3, &settings()).unwrap();
    let report = doctor(&cluster, &["--strict"]).report();
    assert_eq!(report.code, 0, "nobody asked for one: {report}");
    report.server(0).level("note", &["cluster.replicas"]);
    let report = doctor(&cluster, &["--expect-replicas", "1"]).report();
    assert_eq!(report.code, 2, "{report}");
    report.server(0).level("failed", &["cluster.replicas"]);
    assert_eq!(report.server(2).verdict(), "replica_lost", "{report}");
}

#[test]
fn a_replica_whose_link_is_cut() {
    let cluster =
        Cluster::with_replicas(2, 1, &settings().password(SECRET).arg("masterauth", SECRET));
    let cluster = cluster.unwrap();
    let replica = cluster.node(2).admin();
    replica.text(&["CONFIG", "SET", "masterauth", "another"]);
    cluster.node(0).admin().text(&["CLIENT", "KILL", "TYPE", "replica"]);
    until_said(&cluster, 2, &["INFO", "replication"], "master_link_status:down");
    // The password is the URL's, for all nodes.
    let url = cluster.node(1).url_with(Transport::Tcp, Resp::Resp3, Auth::Password(SECRET), 0);
    let report = Doctor::of(&[&url]).report();
    let first = report.server(0);
    assert_eq!((report.code, report.len()), (2, 4), "{report}");
    first.level("failed", &["cluster.replicas"]);
    let said = first.check("cluster.replicas").evidence;
    assert!(said.contains(&cluster.address(0)) && said.contains("0 replicas"), "{said}");
    assert_eq!(report_of(&report, &cluster, 2).verdict(), "replica_lost", "{report}");
}

#[test]
fn connections_that_are_spread_unevenly_and_who_holds_them() {
    let cluster = Cluster::start(3, &settings()).unwrap();
    let _even: Vec<_> =
        (0..3).map(|node| Crowd::from(cluster.node(node), 2).named("api").open(8).busy()).collect();
    let _hot = Crowd::from(cluster.node(1), 3).named("cart").open(110).busy();
    let report = doctor(&cluster, &[]).report_of(&servers(&cluster));
    assert_eq!(report.code, 0, "{report}");
    let first = report.server(0);
    let said = first.level("warning", &["cluster.connections"]).check("cluster.connections");
    assert!(said.evidence.contains(&cluster.address(1)), "{said:?}");
    assert!(said.evidence.contains("cart holds 110 there and 0"), "{said:?}");
    assert!(!said.evidence.contains("api holds"), "the same everywhere: {said:?}");
    assert_eq!(nodes(&first)[0]["server"], *cluster.address(1), "{report}");
    assert_eq!(report.json["worst"], *cluster.address(1), "{report}");
}

#[test]
fn a_node_with_fewer_slots_than_the_others() {
    let cluster = Cluster::start(3, &settings()).unwrap();
    cluster.node(1).admin().set_maxclients(60);
    let report = doctor(&cluster, &[]).report();
    assert_eq!(report.code, 0, "{report}");
    let first = report.server(0);
    first.level("warning", &["cluster.maxclients"]).shows("cluster.maxclients", 60);
    first.shows("cluster.maxclients", 200).shows("cluster.links", 60);
}

#[test]
fn a_full_node_is_the_worst() {
    let cluster = Cluster::start(3, &settings()).unwrap();
    cluster.node(2).admin().set_maxclients(12);
    let _occupants = cluster.node(2).fill();
    let report = doctor(&cluster, &[]).report();
    assert_eq!((report.code, report.len()), (3, 3), "{report}");
    assert_eq!(report.server(0).verdict(), "nothing_wrong", "{report}");
    report.server(0).level("ok", &["cluster.addresses", "cluster.state"]);
    let full = report.server(1);
    assert_eq!(full.json["server"], *cluster.address(2), "{report}");
    assert_eq!(full.verdict(), "full", "{report}");
    let said = nodes(&report.server(0))[0]["message"].as_str().unwrap();
    assert!(said.contains("max number of clients"), "{report}");
}

#[tokio::test]
async fn the_full_node_of_a_pool_is_examined_over_a_connection_that_it_has() {
    let cluster = Cluster::start(3, &settings()).unwrap();
    let pool = GuardedPool::cluster(cluster.urls()).max_connections(2).build().unwrap();
    for index in 0..3 {
        drop(pool.acquire_for("app", &cluster.key_on(index)).await.unwrap());
    }
    cluster.node(2).admin().set_maxclients(40);
    let _occupants = cluster.node(2).fill();
    // Until the pool has seen it itself, no node is worse than another.
    let wait = async {
        while *pool.status().server != *cluster.address(2) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(crate::IDLE_LIMIT, wait).await.expect("the full node is the worst");
    let before = cluster.node(2).admin().info_u64("total_connections_received");

    let doctor = redis_guard::doctor::Doctor::default().sample(Duration::from_millis(50));
    let report = doctor.examine_pool(&pool).await.unwrap();

    let [seen] = report.servers.as_slice() else { panic!("{report:?}") };
    assert_eq!(seen.server, cluster.address(2), "{report}");
    assert_eq!(seen.verdict.kind, VerdictKind::Unused, "{report}");
    assert_eq!(seen.capacity.as_ref().and_then(|capacity| capacity.used), Some(40), "{report}");
    assert_eq!(cluster.node(2).admin().info_u64("total_connections_received"), before, "no dial");
}

#[test]
fn a_master_that_is_gone_with_its_slots() {
    let cluster = Cluster::start(3, &watchful()).unwrap();
    cluster.node(2).crash();
    until_said(&cluster, 0, &["CLUSTER", "NODES"], "master,fail ");
    until_said(&cluster, 0, &["CLUSTER", "INFO"], "cluster_state:fail");
    let report = doctor(&cluster, &[]).report_of(&servers(&cluster));
    assert_eq!((report.code, report.len()), (3, 3), "{report}");
    let first = report.server(0);
    assert_eq!(first.verdict(), "cluster_down", "{report}");
    let said = first.level("failed", &["cluster.state"]).check("cluster.state").evidence;
    assert!(said.contains(&cluster.address(2)) && said.contains("5,462 slots"), "{said}");
    assert_eq!(first.json["cluster"]["state"], "fail");
}

#[test]
fn a_slot_that_nobody_serves_and_one_that_only_some_know_of() {
    let cluster = Cluster::start(2, &settings()).unwrap();
    // The others go on to believe what it said last.
    cluster.node(0).admin().text(&["CLUSTER", "DELSLOTS", "5"]);
    let report = doctor(&cluster, &[]).report_of(&servers(&cluster));
    assert_eq!(report.code, 2, "{report}");
    let first = report.server(0);
    assert_eq!(first.verdicts(), ["cluster_down", "nodes_disagree"], "{report}");
    first.shows("cluster.agreement", 5);
    let said = first.check("cluster.agreement").evidence;
    assert!(said.contains(&format!("slot 5 is of no node, says {}", cluster.address(0))), "{said}");

    let lone = crate::server().cluster(true).start().unwrap();
    let report = Doctor::of(&[&lone.url()]).report_of(&[&lone]);
    report.is(2, "cluster_down").shows("cluster.state", 16_384);
}

#[test]
fn slots_that_are_left_on_their_way() {
    let cluster = Cluster::start(3, &settings()).unwrap();
    let _both = cluster.begin_move(cluster.slots_of(0)[0], 1);
    let importing = ["CLUSTER", "SETSLOT", "7000", "IMPORTING", cluster.node_id(1)];
    cluster.node(2).admin().text(&importing);
    let report = doctor(&cluster, &[]).report_of(&servers(&cluster));
    assert_eq!((report.code, report.server(0).verdict()), (0, "nothing_wrong"), "{report}");
    let first = report.server(0);
    let check = first.level("warning", &["cluster.migrations"]).check("cluster.migrations");
    let [a, b, c] = [0, 1, 2].map(|index| cluster.address(index));
    assert!(check.evidence.contains(&format!("slot 0 is on its way from {a} to {b}")), "{check:?}");
    let one_sided = format!("{c} awaits slot 7000 from {b}, which does not send it");
    assert!(check.evidence.contains(&one_sided), "{check:?}");
}

#[test]
fn announced_addresses_that_lead_nowhere_and_elsewhere() {
    let cluster = Cluster::start(3, &settings()).unwrap();
    let announce = |port: &str| {
        cluster.node(1).admin().text(&["CONFIG", "SET", "cluster-announce-port", port]);
        let line = format!("{} 127.0.0.1:{port}@", cluster.node_id(1));
        until_said(&cluster, 0, &["CLUSTER", "NODES"], &line);
    };
    announce("1");
    let report = doctor(&cluster, &[]).report();
    assert_eq!((report.code, report.len()), (3, 3), "{report}");
    assert_eq!(report.server(0).verdict(), "announced_unreachable", "{report}");
    let check = report.server(0).check("cluster.addresses");
    assert!(check.evidence.contains("127.0.0.1:1"), "{check:?}");
    assert_eq!(report.server(1).verdict(), "refused", "{report}");

    if lacks("node that minds a new port of its own", SEVEN) {
        return;
    }
    // The node of the URL is reached, and those who are sent to it by others are not.
    let report = Doctor::of(&[&cluster.node(1).url()]).report();
    assert_eq!((report.code, report.len()), (2, 3), "{report}");
    assert_eq!(report.server(0).verdict(), "announced_unreachable", "{report}");

    announce(&cluster.node(2).port().to_string());
    let report = doctor(&cluster, &[]).report();
    let check = report.server(0).level("failed", &["cluster.addresses"]).check("cluster.addresses");
    assert!(check.evidence.contains("leads to another node"), "{check:?}");
}

#[test]
fn a_node_that_hangs_is_a_report_and_the_rest_goes_on() {
    let cluster = Cluster::start(3, &settings()).unwrap();
    cluster.node(1).pause();
    let report = doctor(&cluster, &["--timeout", "1s"]).report();
    cluster.node(1).resume();
    assert_eq!((report.code, report.len()), (3, 3), "{report}");
    assert_eq!(report.server(1).verdict(), "unresponsive", "{report}");
    assert_eq!(report.server(2).verdict(), "nothing_wrong", "{report}");
    report.server(0).level("ok", &["cluster.addresses"]);
}

#[test]
fn a_user_who_may_not_ask_is_told_what_was_left_out() {
    let cluster = Cluster::start(2, &settings().acl_user("ops", SECRET)).unwrap();
    let rights = |rights: &str| {
        for node in cluster.nodes() {
            node.admin().text(&["ACL", "SETUSER", "ops", "+@all", rights]);
        }
    };
    let url = cluster.node(0).url().replace("redis://", &format!("redis://ops:{SECRET}@"));
    rights("-cluster");
    let report = Doctor::of(&[&url]).report();
    let seen = report.is(0, "nothing_wrong");
    let check = seen.level("warning", &["cluster.nodes"]).check("cluster.nodes");
    assert!(check.evidence.contains("NOPERM"), "{check:?}");
    assert!(check.fix.is_some_and(|fix| fix.contains("+cluster|nodes")), "{check:?}");

    if lacks("rules on subcommands", SEVEN) {
        return;
    }
    rights("-cluster|nodes");
    let report = Doctor::of(&[&url]).report();
    assert_eq!((report.code, report.len()), (0, 2), "CLUSTER SLOTS names them too: {report}");
    report.server(0).level("ok", &["cluster.nodes", "cluster.state", "cluster.addresses"]);
}

#[test]
fn a_cluster_that_speaks_tls() {
    if crate::support::lacks_tls() {
        return;
    }
    let authority = crate::server().tls(true).start().unwrap();
    let settings = settings().tls_of(&authority).arg("tls-cluster", "yes");
    let cluster = Cluster::start(2, &settings).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), authority.ca_pem()).unwrap();
    let ca = file.path().to_str().unwrap();
    let report = Doctor::of(&[&cluster.node(0).tls_url(), "--cacert", ca]).report();
    assert_eq!((report.code, report.len()), (0, 2), "{report}");
    report.server(0).level("ok", &["cluster.addresses", "cluster.agreement"]);
    report.server(1).level("ok", &["reachability.tls"]);
}

/// A node that says what a real one cannot be made to say.
fn node(lines: &str, slots: &[u8]) -> Fake {
    let info = "# Server\r\nredis_version:7.0.15\r\nredis_mode:cluster\r\n# Clients\r\n\
                connected_clients:3\r\nmaxclients:10000\r\nrole:master\r\n";
    Fake::builder()
        .info(info)
        .reply("CLUSTER NODES", bulk(lines))
        .reply("CLUSTER INFO", bulk("cluster_state:ok\r\n"))
        .reply("CLUSTER SLOTS", slots)
        .start()
}

#[test]
fn of_a_huge_cluster_so_many_are_examined_and_it_is_said() {
    let own = "me 127.0.0.1:9@9 myself,master - 0 0 1 connected 0-16383\n".to_owned();
    let others = (0..300).map(|nth| format!("id{nth} 127.0.0.1:1@2 slave me 0 0 1 connected\n"));
    let node = node(&(own + &others.collect::<String>()), &array(&[]));
    let report = Doctor::of(&[&node.url()]).report();
    // With its own, 128.
    assert_eq!((report.code, report.len()), (3, 128), "{}", report.len());
    let check = report.server(0).level("note", &["cluster.nodes"]).check("cluster.nodes");
    assert!(
        check.evidence.contains("301 nodes") && check.evidence.contains("173 were not"),
        "{check:?}"
    );
    assert!(check.threshold.contains("128"), "{check:?}");
}

#[test]
fn an_empty_host_is_the_one_that_was_dialed_and_garbage_is_nobody() {
    let other = node("you :7@8 myself,slave me 0 0 1 connected\n", &array(&[]));
    let (_, port) =
        other.url().rsplit_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let slots = format!(
        "*1\r\n*4\r\n:0\r\n:16383\r\n*3\r\n$-1\r\n:9\r\n$2\r\nme\r\n*3\r\n$0\r\n\r\n:{port}\r\n$3\r\nyou\r\n"
    );
    let lines = "me 10.0.0.1:9@9 myself,master - 0 0 1 connected 0-16383\n\
                 you 10.0.0.2:9@9 slave me 0 0 1 connected\n\
                 gone :0@0 slave,noaddr me 0 0 1 disconnected\n\
                 \u{1b}[2J\n rubbish rubbish rubbish rubbish rubbish rubbish rubbish rubbish\n";
    let node = node(lines, slots.as_bytes());
    let report = Doctor::of(&[&node.url()]).report();
    assert_eq!(report.len(), 2, "{report}");
    assert_eq!(report.server(1).json["server"], *format!("127.0.0.1:{port}"), "{report}");
    assert_eq!(nodes(&report.server(0)).len(), 3, "{report}");
}

#[test]
fn as_text_the_nodes_stand_in_a_table_and_only_the_sick_at_length() {
    let cluster = Cluster::start(3, &settings()).unwrap();
    let _hot = Crowd::from(cluster.node(1), 3).named("cart").open(180).busy();
    let ended = Doctor::words(&["doctor", &cluster.node(0).url()]).run();
    assert_eq!(ended.code, 2, "{ended:#?}");
    let text = ended.stdout;
    let at = |words: &str| text.find(words).unwrap_or_else(|| panic!("no {words:?}: {text}"));
    let head = at("node, the worst first");
    let [sick, well] = [1, 2].map(|index| format!("\n{} ·", cluster.address(index)));
    assert!(head < at(&sick) && at(&sick) < at(&well), "{text}");
    assert!(text[at(&sick)..at(&well)].contains("✗ saturation"), "{text}");
    assert!(!text[at(&well)..].contains('✓'), "nothing to look at: {text}");
    assert!(text[at(&well)..].contains(&format!("named by {}", cluster.address(0))), "{text}");
}
