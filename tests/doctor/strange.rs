//! INFO and CLIENT LIST as they should not be.

use crate::fake::{Fake, FakeBuilder, array, bulk};
use crate::run::Doctor;
use crate::support::Crowd;

fn fake(info: &str, clients: &str) -> FakeBuilder {
    Fake::builder().info(info).client_list(clients)
}

/// What a real server says of itself and its five clients.
fn real() -> (String, String) {
    let server = crate::server().maxclients(50).start().unwrap();
    let _clients = Crowd::from(&server, 2).named("api").open(4);
    (server.admin().text(&["INFO"]), server.admin().text(&["CLIENT", "LIST"]))
}

#[test]
fn info_cut_short_anywhere() {
    let (info, clients) = real();
    for eighths in 0..8 {
        let cut = &info[..info.len() * eighths / 8];
        let fake = fake(cut, &clients).start();
        let report = Doctor::of(&[&fake.url(), "--sample", "20ms"]).report();
        let seen = report.server(0);
        assert!([0, 2].contains(&report.code), "{report}");
        assert_eq!(seen.number("/holders/clients"), 5, "the rest is still told: {report}");
        if eighths == 0 {
            assert_ne!(seen.verdict(), "nothing_wrong", "an empty INFO: {report}");
            assert_ne!(seen.check("capacity.saturation").level, "ok", "{report}");
        }
    }
}

#[test]
fn info_with_nonsense_in_it() {
    let (info, clients) = real();
    let nonsense = info
        .replace("maxclients:50", "maxclients:-1")
        .replace("connected_clients:5", "connected_clients:many")
        .replace("rejected_connections:0", "rejected_connections:99999999999999999999999");
    let report = Doctor::of(&[&fake(&nonsense, &clients).start().url()]).report();
    let seen = report.server(0);
    seen.level("skipped", &["capacity.saturation"]);
    assert!(seen.json["capacity"]["saturation"].is_null(), "unknown stays unknown: {report}");
}

#[test]
fn client_list_with_fields_that_are_missing_or_unknown() {
    let (info, _) = real();
    let clients = "\
        id=3 addr=10.0.0.1:5000 name=api age=10 idle=0 flags=N cmd=get future=yes\n\
        id=4 addr=10.0.0.1:5001 age=10 idle=x flags=N\n\
        id=5\n\
        addr=10.0.0.2:5002 name=worker flags=b cmd=blpop\n\
        this is no client\n\
        \u{fffd}\u{0}=\u{1}\n\
        id=6 addr= name= age= idle= flags= omem= cmd=\n\
        id=7 addr=10.0.0.3:77 name=api age=-5 idle=99999999999999999999 flags=N omem=-1 cmd=NULL\n";
    let report = Doctor::of(&[&fake(&info, clients).start().url()]).report();
    let seen = report.server(0);
    assert_eq!(report.code, 0, "{report}");
    assert_eq!(seen.number("/holders/clients"), 6);
    assert_eq!(seen.number("/holders/unreadable"), 2);
    assert_eq!(seen.number("/holders/blocked"), 1);
    let said = seen.json["checks"].to_string();
    assert!(said.contains("could not be read") || said.contains("unreadable"), "{report}");
}

/// A server that has no flag for subscribers, full of them.
#[test]
fn subscribers_without_a_flag_are_no_clients_that_had_a_command() {
    let (info, _) = real();
    let info = info.replace("connected_clients:5", "connected_clients:49");
    let listening = |nth: usize| {
        let kind = ["sub=1 psub=0", "sub=0 psub=3", "sub=0 psub=0 ssub=1"][nth % 3];
        format!("id={nth} addr=10.0.0.1:{nth} name=feed age=900 idle=2 flags=N {kind} cmd=ping\n")
    };
    let working = "id=90 addr=10.0.0.2:90 name=api age=900 idle=2 flags=N sub=0 psub=0 cmd=get\n";
    let clients: String = (2..47).map(listening).chain([working.to_owned()]).collect();
    let report = Doctor::of(&[&fake(&info, &clients).start().url()]).report();
    let seen = report.is(2, "ceiling_too_low");
    assert_eq!(seen.number("/holders/subscribers"), 45, "{report}");
    let said = seen.says("ceiling_too_low");
    assert!(
        said.contains("1 of 46 clients had a command within 5 min, 45 subscribed"),
        "{said}: {report}"
    );
}

#[test]
fn sockets_without_a_peer_are_dead_and_to_be_killed() {
    let (info, clients) = real();
    let dead = "id=91 addr=?:0 name=api age=9000 idle=9000 flags=N cmd=get\n".repeat(2);
    let report = Doctor::of(&[&fake(&info, &(clients + &dead)).start().url()]).report();
    let seen = report.server(0);
    seen.level("warning", &["holders.dead"]).shows("holders.dead", 2);
    let fix = seen.check("holders.dead").fix.unwrap();
    assert!(fix.contains("CLIENT KILL ADDR '?:0'"), "{fix}");
    assert_eq!(seen.number("/holders/idle"), 0, "they are told once: {report}");
}

#[test]
fn client_list_that_is_an_error() {
    let (info, _) = real();
    let fake = Fake::builder().info(&info).reply("CLIENT LIST", "-ERR not here\r\n").start();
    let report = Doctor::of(&[&fake.url()]).report();
    let seen = report.server(0);
    seen.level("skipped", &["holders.sources"]).level("ok", &["capacity.saturation"]);
    assert!(seen.check("holders.sources").evidence.contains("not here"), "{report}");
}

#[test]
fn replies_of_the_wrong_kind() {
    let (info, _) = real();
    let fake = Fake::builder().info(&info).reply("CLIENT LIST", ":5\r\n");
    let fake = fake.reply("CONFIG", "+OK\r\n").reply("SLOWLOG", "$3\r\nyes\r\n").start();
    let report = Doctor::of(&[&fake.url()]).report();
    report.server(0).level("ok", &["capacity.saturation"]);
    assert_eq!(report.code, 0, "{report}");
}

#[test]
fn a_server_that_closes_in_the_middle_of_a_reply() {
    let (info, _) = real();
    // A length that never comes: what follows are answers to later questions.
    let fake = Fake::builder().info(&info).reply("CLIENT LIST", "$100000\r\nid=1 addr=").start();
    let report = Doctor::of(&[&fake.url(), "--timeout", "300ms"]).report();
    assert_ne!(report.code, 0, "{report}");
    report.server(0).level("ok", &["capacity.saturation", "reachability.auth"]);
}

#[test]
fn an_old_server_without_the_newer_fields() {
    // Redis 3.0: no maxclients in INFO, no users, no libraries.
    let info = "\
        # Server\r\nredis_version:3.0.7\r\nredis_mode:standalone\r\nprocess_id:1\r\n\
        uptime_in_seconds:86400\r\ntcp_port:6379\r\n\r\n# Clients\r\nconnected_clients:4\r\n\
        client_longest_output_list:0\r\nclient_biggest_input_buf:0\r\nblocked_clients:0\r\n\r\n\
        # Memory\r\nused_memory:1000000\r\n\r\n# Stats\r\ntotal_connections_received:10\r\n\
        rejected_connections:0\r\n\r\n# Replication\r\nrole:master\r\nconnected_slaves:0\r\n";
    let clients = "id=2 addr=10.0.0.1:5000 fd=5 name= age=100 idle=0 flags=N db=0 cmd=get\n";
    let maxclients = "*2\r\n$10\r\nmaxclients\r\n$3\r\n100\r\n";
    let known = fake(info, clients).reply("CONFIG GET MAXCLIENTS", maxclients);
    let report = Doctor::of(&[&known.start().url(), "--strict"]).report();
    let seen = report.is(0, "nothing_wrong");
    assert_eq!(seen.number("/capacity/maxclients"), 100, "CONFIG tells what INFO does not");

    let report = Doctor::of(&[&fake(info, clients).start().url()]).report();
    report.server(0).level("skipped", &["capacity.saturation"]);
    assert_eq!(report.code, 0, "{report}");
}

/// Names of users and values of settings may be any bytes.
#[test]
fn one_byte_that_is_not_utf_8_costs_nothing_but_itself() {
    let (info, _) = real();
    let info = [info.as_bytes(), b"# Modules\r\nmodule:name=\xff,ver=1\r\n"].concat();
    let clients = b"id=3 addr=10.0.0.1:5000 name=caf\xe9 user=\xff age=10 idle=0 flags=N cmd=get\n";
    let setting = |name: &str, value: &[u8]| array(&[bulk(name), bulk(value)]);
    let slow = |command: &[u8], client: &[u8]| {
        let words = array(&[bulk(command), bulk(b"\xff")]);
        let number = |number: u64| format!(":{number}\r\n").into_bytes();
        array(&[
            number(1),
            number(1_795_252_228),
            number(200_000),
            words,
            bulk("10.0.0.1:5"),
            bulk(client),
        ])
    };
    let fake = Fake::builder()
        .info(info)
        .client_list(clients)
        .reply("CONFIG GET TIMEOUT", setting("timeout", b"77"))
        .reply("CONFIG GET MAXMEMORY-POLICY", setting("maxmemory-policy", b"no\xff"))
        .reply("SLOWLOG GET", array(&[slow(b"get\xff", b"caf\xe9")]))
        .start();

    let report = Doctor::of(&[&fake.url(), "--sample", "20ms"]).report();

    let seen = report.is(0, "nothing_wrong");
    assert_eq!(seen.json["holders"]["by_name"][0]["key"], "caf\u{fffd}");
    assert_eq!(seen.json["holders"]["by_user"][0]["key"], "\u{fffd}");
    assert!(seen.check("server.timeout").evidence.contains("1 min 17 s"), "{report}");
    assert!(seen.check("server.slowlog").evidence.contains("GET\u{fffd}"), "{report}");
}

#[test]
fn every_vendors_info_is_read() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/info");
    let running = std::fs::read_dir(folder).unwrap().map(|file| {
        let path = file.unwrap().path();
        let info = std::fs::read_to_string(&path).unwrap().replace('\n', "\r\n");
        let fake = Fake::builder().info(&info).reply("CONFIG", "-NOPERM no\r\n").start();
        let doctor = Doctor::of(&[&fake.url(), "--sample", "20ms"]).spawn();
        (path, fake, doctor)
    });
    for (path, _fake, doctor) in running.collect::<Vec<_>>() {
        let report = doctor.end().report();
        assert!([0, 2].contains(&report.code), "{}: {report}", path.display());
    }
}

/// A fix is pasted into a shell: what a server, or one of its clients, says of itself must not run
/// there.
#[test]
fn words_of_clients_are_no_part_of_a_command() {
    let (info, _) = real();
    let evil = "';reboot;'$(reboot)`reboot`";
    let clients: String = (100..140)
        .map(|id| {
            format!(
                "id={id} addr={evil}:{id} name={evil} lib-name={evil} user={evil} age=900 \
                 idle=900 flags=N omem=9999999 cmd={evil}\n"
            )
        })
        .chain((150..154).map(|id| format!("id={id} addr=10.0.1.{id}:1 age=9 idle=0 flags=N\n")))
        .collect();
    let report = Doctor::of(&[&fake(&info, &clients).start().url()]).report();
    let seen = report.server(0);
    assert_eq!(seen.number("/holders/by_source/0/connections"), 40);
    assert!(!seen.advice().contains("reboot"), "{}", seen.advice());
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let (info, _) = real();
    let info = info.replace("redis_version:7", "redis_version:\u{1b}]0;owned\u{7}7");
    let clients = "id=1 addr=10.0.0.1:1 name=\u{1b}[2Jred age=900 idle=900 flags=N cmd=\u{1b}[2J\n";
    let fake = fake(&info, &clients.repeat(40)).reply("CONFIG", "-NOPERM \u{1b}[2J\r\n").start();
    let text = Doctor::words(&["doctor", &fake.url()]).run();
    assert!(!text.stdout.contains('\u{1b}') && !text.stderr.contains('\u{1b}'), "{text:#?}");
}
