//! `--once`: what it prints, and what it ends with.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::NAME;
use crate::fake::{Fake, array, bulk};
use crate::program::{Live, json, run, text, watch};
use crate::support::server::poll;
use crate::support::{Auth, Cluster, Occupants, Resp, SEVEN, TestServer, Transport, lacks};

const SHORT: &[&str] = &["--interval", "200ms"];

fn args<'a>(url: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&[url], SHORT, more].concat()
}

/// The watch itself has one slot, and then not any more.
fn used_with_the_watch(server: &TestServer) -> u64 {
    let gone = || (server.admin().clients_named(NAME) == 0).then_some(());
    poll(Duration::from_secs(5), gone).expect("the watch has gone");
    server.admin().used_slots() + 1
}

#[test]
fn the_numbers_are_the_servers() {
    let server = TestServer::builder().maxclients(50).start().unwrap();
    let mut occupants = Occupants::none(&server);
    occupants.take(7);
    let mut worker = UnixStream::connect(server.socket_path()).unwrap();
    worker.write_all(b"CLIENT SETNAME worker\r\nBLPOP nothing 0\r\n").unwrap();
    let blocks = || (server.admin().info_u64("blocked_clients") == 1).then_some(());
    poll(Duration::from_secs(5), blocks).unwrap();

    let (code, seen) = json(&args(&server.url(), &[]));

    let used = used_with_the_watch(&server);
    let it = &seen["servers"][0];
    assert_eq!((code, &seen["exit_code"], &seen["schema_version"]), (0, &0.into(), &1.into()));
    assert_eq!(it["used"], used);
    assert_eq!((&it["maxclients"], &it["free"]), (&50.into(), &(50 - used).into()));
    assert_eq!((&it["condition"], &it["role"]), (&"fine".into(), &"master".into()));
    assert_eq!((&it["blocked_clients"], &it["holders"]["blocked"]), (&1.into(), &1.into()));
    assert_eq!(it["rejections_per_second"], 0.0);
    assert_eq!(it["holders"]["clients"], used - 1, "all but itself");
    assert_eq!(it["holders"]["sources"], 9, "{it:#}");
    assert!(it["connections_per_second"].is_number(), "{it:#}");
}

#[test]
fn the_text_says_the_same() {
    let server = TestServer::builder().maxclients(50).start().unwrap();
    let mut occupants = Occupants::none(&server);
    occupants.take(7);

    let (code, frame) = text(&args(&server.url(), &["--top", "3"]));

    let used = used_with_the_watch(&server);
    let numbers = format!("{used} of 50   {} free", 50 - used);
    assert_eq!(code, 0, "{frame}");
    for part in
        [" OK ", "master", &numbers, "unix occupant:", "8 sources", "… 5 more", "rejections"]
    {
        assert!(frame.contains(part), "{part}: {frame}");
    }
    assert!(!frame.contains('\u{1b}'), "no escapes where there is no terminal");
}

#[test]
fn a_server_without_a_free_slot_is_a_failure() {
    let server = TestServer::builder().maxclients(20).start().unwrap();
    let _occupants = server.fill_to_leave(1);

    let (code, seen) = json(&args(&server.url(), &[]));

    assert_eq!((code, &seen["servers"][0]["condition"]), (2, &"full".into()));
    assert_eq!(seen["servers"][0]["free"], 0);
}

#[test]
fn rejections_between_the_two_looks_are_a_failure() {
    let server = TestServer::builder().maxclients(20).start().unwrap();
    let url = server.url();
    let mut command = watch(&[&url, "--interval", "2s", "--once", "--output", "json"]);
    let mut live = Live::of(command.stdout(std::process::Stdio::piped()).spawn().unwrap());
    // CLIENT LIST is its last command of the first look.
    let looked = || {
        let list = server.admin().client_list();
        let ours = list.iter().find(|client| client["name"] == NAME)?;
        (ours["cmd"] == "scan").then_some(())
    };
    poll(Duration::from_secs(10), looked).expect("it has looked once");

    server.fill().free();

    let seen = live.frame()["servers"][0].take();
    assert_eq!(live.ended().code(), Some(2), "{seen:#}");
    assert_eq!((&seen["rejections_watched"], &seen["condition"]), (&1.into(), &"rejecting".into()));
    assert!(seen["rejections_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_full_server_is_said_to_be_full_in_its_own_words() {
    let server = TestServer::builder().maxclients(20).start().unwrap();
    let _occupants = server.fill();
    let before = server.admin().info_u64("rejected_connections");

    let output = run(&args(&server.url(), &["--once"]));

    let [stdout, stderr] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap());
    assert_eq!(output.status.code(), Some(3));
    assert!(stdout.contains("FULL, NOT CONNECTED"), "{stdout}");
    assert!(stdout.contains("max number of clients reached"), "{stdout}");
    assert!(stderr.contains("max number of clients reached"), "{stderr}");
    assert_eq!(server.admin().info_u64("rejected_connections"), before + 1, "it dials once");
}

#[test]
fn of_two_servers_one_may_be_dead() {
    let (server, dead) = (TestServer::start().unwrap(), TestServer::start().unwrap());
    dead.stop();
    let (url, gone) = (server.url(), dead.url());

    let (code, seen) = json(&args(&url, &[&gone]));

    assert_eq!(code, 3);
    let [first, second] = seen["servers"].as_array().unwrap().as_slice() else { panic!("{seen}") };
    assert_eq!(first["not_connected"]["outcome"], "refused");
    assert_eq!((&second["connected"], &second["condition"]), (&true.into(), &"fine".into()));
    let (_, frame) = text(&args(&url, &[&gone]));
    assert!(frame.contains("NOT CONNECTED") && frame.contains(" OK "), "{frame}");
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let server = TestServer::start().unwrap();
    server.pause();

    let (code, seen) = json(&args(&server.url(), &["--timeout", "300ms"]));

    server.resume();
    assert_eq!((code, &seen["servers"][0]["not_connected"]["outcome"]), (3, &"timeout".into()));
}

#[test]
fn one_byte_that_is_not_utf_8_costs_nothing_but_itself() {
    let info = b"# Clients\r\nconnected_clients:2\r\nmaxclients:100\r\nmodule:name=\xff\r\n";
    let clients = b"id=3 addr=10.0.0.1:5000 name=caf\xe9 user=\xff age=10 idle=0 flags=N cmd=get\n";
    let key = |name: &[u8]| bulk([b"{redis-guard:", name, b"}:members"].concat());
    let found = array(&[bulk("0"), array(&[key(b"shop"), key(b"\xff")])]);
    let member = |id: &[u8], record: &[u8]| [bulk(id), bulk(record)];
    let members = [member(b"ap\xff", b"4 7 5 2 1"), member(b"b", b"4 7 \xff 2 1")].concat();
    let fake = Fake::builder()
        .info(info)
        .client_list(clients)
        .reply("SCAN", found)
        .reply("HGETALL", array(&members))
        .reply("ZRANGEBYSCORE", "*0\r\n")
        .start();

    let (code, seen) = json(&args(&fake.url(), &[]));

    let it = &seen["servers"][0];
    assert_eq!((code, &it["used"]), (0, &2.into()), "{it:#}");
    assert_eq!(it["holders"]["by_name"][0]["key"], "caf\u{fffd}", "{it:#}");
    let fleet = &it["fleets"][0];
    assert_eq!((&fleet["fleet"], &fleet["unreadable"]), (&"shop".into(), &1.into()), "{it:#}");
    assert_eq!(fleet["members"][0]["id"], "ap\u{fffd}", "{it:#}");
}

#[test]
fn a_password_comes_from_the_url_or_redis_clis_variable() {
    let server = TestServer::builder().password("p@ss word").start().unwrap();
    let (code, seen) = json(&args(&server.url(), &[]));
    let it = &seen["servers"][0];
    assert_eq!(code, 3);
    assert!(it["not_connected"]["message"].as_str().unwrap().contains("NOAUTH"), "{it:#}");

    let with = server.url_with(Transport::Tcp, Resp::Resp3, Auth::Password("p@ss word"), 0);
    let (code, seen) = json(&args(&with, &[]));
    assert_eq!(code, 0, "{seen:#}");
    let it = &seen["servers"][0];
    assert!(it["used"].is_u64() && it["holders"]["clients"].is_u64(), "RESP3 too: {it:#}");
    let url = server.url();
    let mut command = watch(&args(&url, &["--once"]));
    let output = command.env("REDISCLI_AUTH", "p@ss word").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!format!("{output:?}").contains("p@ss"));
}

#[test]
fn over_tls_with_the_authoritys_certificate() {
    if crate::support::lacks_tls() {
        return;
    }
    let server = TestServer::builder().tls(true).start().unwrap();
    let pem = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(pem.path(), server.ca_pem()).unwrap();
    let url = server.tls_url();

    let (code, seen) = json(&args(&url, &["--cacert", pem.path().to_str().unwrap()]));
    assert_eq!((code, &seen["servers"][0]["connected"]), (0, &true.into()), "{seen:#}");
    assert_eq!(json(&args(&url, &[])).0, 3, "an authority that nobody knows");
}

#[test]
fn what_is_denied_is_said_in_its_place_and_the_rest_goes_on() {
    if lacks("rules on subcommands", SEVEN) {
        return;
    }
    let server = TestServer::start().unwrap();
    let user = |name: &str, rules: &[&str]| {
        let user = [&["ACL", "SETUSER", name, "on", ">pw", "~*", "+@all"], rules].concat();
        server.admin().text(&user);
        server.url_with(Transport::Tcp, Resp::Resp2, Auth::User(name, "pw"), 0)
    };

    let (code, seen) = json(&args(&user("a", &["-client|list", "-scan"]), &[]));
    let it = &seen["servers"][0];
    assert_eq!(code, 0);
    assert!(it["holders_problem"].as_str().unwrap().starts_with("NOPERM"), "{it:#}");
    assert!(it["fleets_problem"].as_str().unwrap().contains("NOPERM"), "{it:#}");
    assert!(it["used"].is_u64());

    let url = user("b", &["-info"]);
    let (code, seen) = json(&args(&url, &[]));
    let it = &seen["servers"][0];
    assert_eq!(code, 0);
    assert!(it["info_problem"].as_str().unwrap().starts_with("NOPERM"), "{it:#}");
    assert!(it["used"].is_null() && it["rejections_per_second"].is_null(), "{it:#}");
    assert!(it["holders"]["clients"].is_u64());
    let (_, frame) = text(&args(&url, &[]));
    assert!(frame.contains("NOPERM") && frame.contains('–'), "{frame}");
}

#[test]
fn wrong_usage_is_64() {
    let wrong: [&[&str]; 8] = [
        &[],
        &["redis://127.0.0.1:1", "--nonsense"],
        &["nonsense"],
        &["redis://127.0.0.1:1", "--interval", "1ms"],
        &["redis://127.0.0.1:1", "--interval", "soon"],
        &["redis://127.0.0.1:1", "--once", "--count", "3"],
        &["redis://127.0.0.1:1", "--count", "0"],
        &["redis://127.0.0.1:1", "--cacert", "/no/such/file"],
    ];
    for args in wrong {
        let output = run(args);
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
    let output = run(&["http://me:secret@127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("secret"));
}

#[test]
fn the_server_may_be_named_by_host_and_port_or_by_the_environment() {
    let server = TestServer::start().unwrap();
    let (code, seen) = json(&args(&format!("127.0.0.1:{}", server.port()), &[]));
    assert_eq!((code, &seen["servers"][0]["connected"]), (0, &true.into()), "{seen:#}");

    let mut command = watch(&[SHORT, &["--once", "--output", "json"]].concat());
    let output = command.env("REDIS_URL", server.url()).output().unwrap();
    let seen = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{seen}");
    assert!(seen.contains(&format!("127.0.0.1:{}", server.port())), "{seen}");
}

#[test]
fn help_tells_the_exit_codes() {
    let output = run(&["--help"]);
    let help = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(help.contains("Exit codes: 0 fine") && help.contains("--fleet <NAME>"), "{help}");
}

#[test]
fn a_sentinel_says_what_to_watch_instead() {
    let info = "redis_mode:sentinel\r\nconnected_clients:3\r\nmaxclients:10000\r\n\
                master0:name=mymaster,status=ok,address=10.0.0.7:6379,slaves=1,sentinels=3\r\n";
    let sentinel = Fake::builder().info(info).start();

    let (_, frame) = text(&args(&sentinel.url(), &[]));
    let (code, seen) = json(&args(&sentinel.url(), &[]));

    for told in ["a sentinel", "redis://10.0.0.7:6379 (mymaster)"] {
        assert!(frame.contains(told), "{told}: {frame}");
    }
    assert!(!frame.contains("fleet"), "it has no keys: {frame}");
    let it = &seen["servers"][0];
    assert_eq!((code, &it["watched_masters"][0]["port"]), (0, &6379.into()), "{it:#}");
}

#[test]
fn a_node_of_a_cluster_names_the_others_that_are_not_watched() {
    let cluster = Cluster::start(3, &TestServer::builder()).unwrap();
    let urls = cluster.urls();
    let [first, second, third] = [0, 1, 2].map(|node| cluster.address(node));

    let (_, frame) = text(&args(&urls[0], &[&urls[1]]));
    let (code, seen) = json(&args(&urls[0], &[]));
    let (_, all) = text(&args(&urls[0], &[&urls[1], &urls[2]]));

    assert!(frame.contains("one node of a cluster of 3; 1 is not watched"), "{frame}");
    assert!(frame.contains(&third), "{frame}");
    assert!(!all.contains("one node of a cluster"), "{all}");
    let it = &seen["servers"][0];
    let mut others: Vec<_> =
        it["other_nodes"].as_array().unwrap().iter().filter_map(|node| node.as_str()).collect();
    others.sort_unstable();
    let mut expected = [second.as_str(), &third];
    expected.sort_unstable();
    assert_eq!(
        (code, it["server"].as_str(), others),
        (0, Some(&*first), expected.to_vec()),
        "{it:#}"
    );
}
