//! Servers with nothing wrong: no alarm, not even with `--strict`.

use crate::run::{Doctor, Report};
use crate::support::{Auth, Cluster, Crowd, Resp, TestServer, Transport, pair};

/// With `--strict`: neither a failure nor a warning.
#[track_caller]
fn is_well(server: &TestServer, args: &[&str]) -> Report {
    let url = server.url();
    let report = Doctor::of(&[&url, "--strict"]).args(args).report_of(&[server]);
    let seen = report.is(0, "nothing_wrong");
    assert_eq!(seen.verdicts(), ["nothing_wrong"], "{report}");
    assert_eq!(report.json["exit_code"], 0);
    report
}

#[test]
fn a_server_that_was_just_started() {
    let server = crate::server().start().unwrap();
    let report = is_well(&server, &[]);
    let seen = report.server(0);
    assert_eq!(seen.number("/capacity/used"), 2, "the admin and the doctor");
    assert_eq!(seen.number("/capacity/maxclients"), 10_000);
    assert_eq!(seen.number("/holders/clients"), 1, "the doctor does not count itself");
    assert_eq!(seen.number("/capacity/free"), 9_998);
    assert_eq!(seen.json["capacity"]["connections_per_second"], 0.0);
}

#[test]
fn a_server_with_clients_at_work_and_workers_that_wait() {
    let server = crate::server().maxclients(400).start().unwrap();
    let _api = [2, 3, 4, 5].map(|host| Crowd::from(&server, host).named("api").open(8).busy());
    let workers = [6, 7].map(|host| Crowd::from(&server, host).named("worker").open(20));
    let _workers = workers.map(|it| it.block_in(&server, &["BLPOP", "jobs", "0"]));
    let subscribers = Crowd::from(&server, 8).named("feed").open(5);
    subscribers.ask(&["SUBSCRIBE", "prices"]);

    let report = is_well(&server, &["--idle-after", "1s"]);
    let seen = report.server(0);
    assert_eq!(seen.number("/holders/blocked"), 40);
    assert_eq!(seen.number("/holders/subscribers"), 5);
}

#[test]
fn a_big_pool_that_is_idle_and_has_a_small_share() {
    let server = crate::server().maxclients(1_000).start().unwrap();
    let pool = Crowd::from(&server, 2).named("night-shift").open(100);
    crate::until_idle(&server, &[pool.source()], 1);
    is_well(&server, &["--idle-after", "1s"]);
}

#[test]
fn a_single_service_on_a_server_of_its_own() {
    let server = crate::server().maxclients(100).start().unwrap();
    let _pool = Crowd::from(&server, 2).named("api").open(40).busy();
    is_well(&server, &["--idle-after", "30s"]);
}

#[test]
fn both_ends_of_a_pair() {
    let settings = || crate::server().maxclients(50);
    let (master, replica) = pair(settings(), settings()).unwrap();
    is_well(&master, &["--expect-replicas", "1"]);
    let report = is_well(&master, &[]);
    assert_eq!(report.server(0).number("/holders/replicas"), 1);
    report.server(0).shows("replication.replicas", 1);
    let report = is_well(&replica, &[]);
    let seen = report.server(0);
    seen.level("ok", &["replication.link", "replication.role"]);
    assert!(seen.check("replication.role").evidence.contains("replica"), "{report}");
    assert_eq!(seen.number("/holders/clients"), 1, "the master's connection is no client");
}

#[test]
fn every_node_of_a_cluster_in_one_report() {
    let cluster = Cluster::start(3, &crate::server().maxclients(100)).unwrap();
    let nodes: Vec<&TestServer> = cluster.nodes().iter().collect();
    let _busy = Crowd::from(nodes[1], 2).open(10).busy();
    let urls = cluster.urls();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();

    let report = Doctor::of(&urls).args(&["--strict"]).report_of(&nodes);
    assert_eq!((report.code, report.len()), (0, 3), "{report}");
    for (index, node) in nodes.iter().enumerate() {
        let seen = report.server(index);
        assert_eq!(seen.verdicts(), ["nothing_wrong"], "{report}");
        let port = node.port().to_string();
        assert!(seen.json["server"].as_str().unwrap().contains(&port), "in their order");
        assert_eq!(seen.number("/capacity/used"), node.admin().used_slots() + 1);
    }
    assert_eq!(report.json["worst"], report.server(1).json["server"], "{report}");
}

#[test]
fn a_pool_that_takes_turns_and_is_not_busy() {
    let server = crate::server().maxclients(50).start().unwrap();
    let pool = Crowd::from(&server, 2).named("api").open(20);
    crate::until_idle(&server, &[pool.source()], 3);
    pool.ask(&["PING"]);
    is_well(&server, &["--idle-after", "3s"]);
}

#[test]
fn two_runs_on_a_quiet_server_say_the_same() {
    let server = crate::server().start().unwrap();
    let _api = Crowd::from(&server, 2).named("api").open(4);
    let levels = || {
        let report = is_well(&server, &[]);
        let checks = report.server(0).json["checks"].as_array().unwrap().clone();
        checks.into_iter().map(|check| check["level"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(levels(), levels());
}

#[test]
fn behind_a_proxy_that_ends_tls() {
    let server = crate::server().maxclients(50).start().unwrap();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], server.port()));
    let proxy = runtime.block_on(crate::support::tls_proxy::TlsProxy::start(address)).unwrap();
    let mut ca = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut ca, proxy.certificate_pem().as_bytes()).unwrap();
    let ca = ca.path().to_str().unwrap();
    let report = Doctor::of(&[&proxy.url(), "--cacert", ca, "--strict"]).report();
    report.is(0, "nothing_wrong");
}

#[test]
fn over_a_unix_socket() {
    let server = crate::server().maxclients(50).start().unwrap();
    let report = Doctor::of(&[&server.unix_url(), "--strict"]).report_of(&[&server]);
    let seen = report.is(0, "nothing_wrong");
    assert!(seen.json["server"].as_str().unwrap().contains("redis.sock"), "{report}");
}

/// Where INFO and CLIENT LIST are verbatim strings.
#[test]
fn over_resp3() {
    let server = crate::server().maxclients(50).start().unwrap();
    let _api = Crowd::from(&server, 2).named("api").open(4).busy();
    let url = server.url_with(Transport::Tcp, Resp::Resp3, Auth::None, 0);
    let report = Doctor::of(&[&url, "--strict"]).report_of(&[&server]);
    let seen = report.is(0, "nothing_wrong");
    assert_eq!(seen.number("/capacity/maxclients"), 50);
    assert_eq!(seen.number("/holders/clients"), 5);
}
