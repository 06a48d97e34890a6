//! What people type.

use std::io::Read;
use std::process::{Command, Stdio};

use crate::run::{Doctor, Ended, SECRET};

/// A mistake on the command line: told on stderr, with nothing on stdout.
#[track_caller]
fn is_usage(ended: &Ended, mentions: &str) {
    assert_eq!(ended.code, 64, "{ended:#?}");
    assert!(ended.stdout.is_empty(), "{ended:#?}");
    assert!(ended.stderr.contains(mentions), "{mentions}: {ended:#?}");
}

#[test]
fn no_command() {
    is_usage(&Doctor::words(&[]).run(), "Usage");
}

#[test]
fn no_url() {
    is_usage(&Doctor::words(&["doctor"]).run(), "URL");
}

#[test]
fn an_unknown_flag() {
    is_usage(&Doctor::words(&["doctor", "redis://127.0.0.1", "--fix"]).run(), "--fix");
}

#[test]
fn durations_that_are_none() {
    for (flag, value) in [
        ("--sample", "soon"),
        ("--timeout", "-1s"),
        ("--wait", "5 parsecs"),
        ("--idle-after", ""),
        ("--sample", "99999999999999999999s"),
    ] {
        let flag_and_value = format!("{flag}={value}");
        let ended = Doctor::words(&["doctor", "redis://127.0.0.1:1", &flag_and_value]).run();
        is_usage(&ended, flag);
    }
}

#[test]
fn a_timeout_of_nothing_is_no_panic() {
    let server = crate::server().start().unwrap();
    let ended = Doctor::of(&[&server.url(), "--timeout", "0s"]).run();
    // What is there at once is in time.
    assert!([0, 2, 3, 64].contains(&ended.code), "{ended:#?}");
}

#[test]
fn numbers_that_are_none() {
    for (flag, value) in [("--top", "many"), ("--top", "-1"), ("--expect-replicas", "1.5")] {
        let ended = Doctor::words(&["doctor", "redis://127.0.0.1:1", &format!("{flag}={value}")]);
        is_usage(&ended.run(), flag);
    }
}

#[test]
fn an_output_that_does_not_exist() {
    let ended = Doctor::words(&["doctor", "redis://127.0.0.1:1", "--output", "yaml"]).run();
    is_usage(&ended, "yaml");
}

#[test]
fn a_cacert_that_is_not_there() {
    let ended = Doctor::words(&["doctor", "rediss://127.0.0.1:1", "--cacert", "/no/such.pem"]);
    is_usage(&ended.run(), "/no/such.pem");
}

#[test]
fn a_cacert_that_is_no_certificate() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "hello").unwrap();
    let path = file.path().to_str().unwrap();
    let ended = Doctor::of(&["rediss://127.0.0.1:1", "--cacert", path]).run();
    assert!([3, 64].contains(&ended.code), "{ended:#?}");
    assert!(format!("{ended:?}").to_lowercase().contains("certificate"), "{ended:#?}");
}

const MALFORMED: [&str; 7] = [
    "nonsense",
    "http://127.0.0.1:6379",
    "redis://",
    "redis://host:port",
    "redis://127.0.0.1:99999",
    "",
    "redis://127.0.0.1:6379/db",
];

#[test]
fn a_malformed_url_alone() {
    for url in MALFORMED {
        let ended = Doctor::of(&[url]).run();
        assert_eq!(ended.code, 64, "{url}: {ended:#?}");
        let said = format!("{}{}", ended.stdout, ended.stderr).to_lowercase();
        assert!(said.contains("url"), "{url}: {ended:#?}");
    }
}

#[test]
fn a_malformed_url_beside_a_good_one() {
    let server = crate::server().start().unwrap();
    for url in MALFORMED {
        let report = Doctor::of(&[url, &server.url(), "--sample", "10ms"]).report();
        assert_eq!((report.code, report.len()), (64, 2), "{url}: {report}");
        assert_eq!(report.json["exit_code"], 64, "{url}: {report}");
        assert_eq!(report.server(0).verdict(), "bad_url", "{url}: {report}");
        report.server(0).level("failed", &["reachability.url"]);
        assert_eq!(report.server(1).verdict(), "nothing_wrong", "{url}: {report}");
    }
}

#[test]
fn the_password_of_a_malformed_url_is_not_shown() {
    let server = crate::server().start().unwrap();
    for url in [
        format!("redis://user:{SECRET}@127.0.0.1:99999"),
        format!("redis://:{SECRET}@127.0.0.1:port/0"),
        format!("http://:{SECRET}@127.0.0.1"),
        format!("user:{SECRET}@127.0.0.1"),
        format!("redis:/:{SECRET}@127.0.0.1"),
        format!("redis+unix:///no/such.sock?pass={SECRET}&db=x"),
        format!("redis://127.0.0.1:1?password={SECRET}"),
    ] {
        // `run` looks for it, in both streams.
        for output in ["json", "text"] {
            let words = ["doctor", &url, &server.url(), "--output", output, "--sample", "10ms"];
            let ended = Doctor::words(&words).args(&["-vv"]).run();
            assert!([0, 3, 64].contains(&ended.code), "{ended:#?}");
        }
    }
}

#[test]
fn a_host_and_a_port_will_do() {
    let server = crate::server().start().unwrap();
    for host in ["127.0.0.1", "localhost"] {
        for database in ["", "/1"] {
            let address = format!("{host}:{}{database}", server.port());
            let report = Doctor::of(&[&address]).report();
            let seen = report.is(0, "nothing_wrong");
            assert_eq!(seen.json["server"], format!("{host}:{}", server.port()), "{report}");
        }
    }
}

#[test]
fn the_server_of_the_environment_is_examined_where_none_is_named() {
    let [ours, named] = [(); 2].map(|()| crate::server().start().unwrap());
    let ports = |doctor: Doctor| {
        let report = doctor.env("REDIS_URL", &ours.url()).report();
        assert_eq!((report.code, report.len()), (0, 1), "{report}");
        let server = report.server(0).json["server"].as_str().unwrap().to_owned();
        server.rsplit_once(':').unwrap().1.parse::<u16>().unwrap()
    };
    assert_eq!(ports(Doctor::of(&[])), ours.port());
    assert_eq!(ports(Doctor::of(&[&named.url()])), named.port());
    is_usage(&Doctor::of(&[]).env("REDIS_URL", "").run(), "REDIS_URL");
    let bad = Doctor::of(&[]).env("REDIS_URL", &format!("http://:{SECRET}@127.0.0.1")).run();
    assert_eq!(bad.code, 64, "{bad:#?}");
}

/// What is well has no reason, and what is worth a look is told as such.
#[test]
fn a_healthy_server_is_described_in_plain_words() {
    let server = crate::server().arg("timeout", "0").arg("tcp-keepalive", "0").start().unwrap();
    let ended = Doctor::words(&["doctor", &server.url(), "--sample", "10ms"]).run();
    assert_eq!(ended.code, 0, "{ended:#?}");
    let said = ended.stdout.split_once("nothing wrong: ").unwrap().1;
    assert!(said.contains("\n  no check failed; worth a look: server."), "{said}");
    assert!(!said.contains("because"), "{said}");
}

#[test]
fn two_servers_of_which_one_is_dead() {
    let [dead, alive] = [(); 2].map(|()| crate::server().start().unwrap());
    dead.stop();
    let report = Doctor::of(&[&dead.url(), &alive.url()]).report();
    assert_eq!((report.code, report.len()), (3, 2), "{report}");
    assert_eq!(report.server(0).verdict(), "refused");
    assert_eq!(report.server(1).verdict(), "nothing_wrong");
    assert_eq!(report.json["worst"], report.server(1).json["server"], "{report}");

    let text = Doctor::words(&["doctor", &dead.url(), &alive.url(), "--sample", "50ms"]).run();
    assert_eq!(text.code, 3);
    for server in [&dead, &alive] {
        assert!(text.stdout.contains(&server.port().to_string()), "{}", text.stdout);
    }
}

/// As `redis-guard doctor … | head -1` leaves it.
#[test]
fn a_reader_that_has_gone_is_no_panic() {
    for output in ["text", "json"] {
        let server = crate::server().start().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_redis-guard"))
            .args(["doctor", &server.url(), "--sample", "10ms", "--output", output])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        assert!(said.is_empty(), "{said}");
    }
}

#[test]
fn text_is_plain_where_nobody_looks() {
    let server = crate::server().maxclients(4).start().unwrap();
    let url = server.url();
    let plain = |name: &str, value: &str| {
        let doctor = Doctor::words(&["doctor", &url, "--sample", "10ms"]).env(name, value);
        doctor.run().stdout
    };
    assert!(!plain("NO_COLOR", "1").contains('\u{1b}'));
    assert!(!plain("TERM", "xterm").contains('\u{1b}'), "a pipe is no terminal");
    assert!(plain("CLICOLOR_FORCE", "1").contains('\u{1b}'), "asked for");
    let doctor = Doctor::words(&["doctor", &url, "--sample", "10ms"]);
    let both = doctor.env("NO_COLOR", "1").env("CLICOLOR_FORCE", "1").run().stdout;
    assert!(!both.contains('\u{1b}'), "NO_COLOR decides");
}

#[test]
fn text_names_the_verdict_the_evidence_and_the_fix() {
    let server = crate::server().maxclients(8).start().unwrap();
    let _occupants = server.fill_to_leave(1);
    let json = Doctor::of(&[&server.url()]).report();
    let text = Doctor::words(&["doctor", &server.url(), "--sample", "200ms"]).run();
    assert_eq!((json.code, text.code), (2, 2), "{json}");
    let seen = json.server(0);
    let check = seen.check("capacity.saturation");
    assert!(text.stdout.contains("saturation"), "{}", text.stdout);
    let fix: String = check.fix.unwrap().split_whitespace().collect();
    let shown: String = text.stdout.split_whitespace().collect();
    assert!(shown.contains(&fix), "{fix}: {}", text.stdout);
    assert!(text.stderr.is_empty(), "{}", text.stderr);
}

#[test]
fn help_and_version() {
    let help = Doctor::words(&["doctor", "--help"]).run();
    assert_eq!((help.code, help.stderr.as_str()), (0, ""));
    for flag in ["--output", "--strict", "--sample", "--timeout", "--wait", "--idle-after"] {
        assert!(help.stdout.contains(flag), "{flag}: {}", help.stdout);
    }
    for flag in ["--expect-replicas", "--top", "--cacert"] {
        assert!(help.stdout.contains(flag), "{flag}: {}", help.stdout);
    }
    let version = Doctor::words(&["--version"]).run();
    assert_eq!(version.code, 0);
    assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{version:?}");
    let help = Doctor::words(&["--help"]).run();
    assert!(help.stdout.contains("64") && help.stdout.contains("doctor"), "{}", help.stdout);
}

#[test]
fn top_is_how_many_holders_are_shown() {
    let server = crate::server().maxclients(50).start().unwrap();
    let _clients =
        [2, 3, 4, 5].map(|host| crate::support::Crowd::from(&server, host).open(usize::from(host)));
    let report = Doctor::of(&[&server.url(), "--top", "2"]).report();
    let seen = report.server(0);
    let keys = |group: &str| {
        let group = seen.json["holders"][group].as_array().unwrap();
        group.iter().map(|it| it["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(keys("by_source"), ["127.0.0.5", "127.0.0.4"]);
    assert_eq!(keys("by_address"), ["127.0.0.5", "127.0.0.4"]);
    assert_eq!(seen.number("/holders/sources"), 5, "all of them are counted");
    let none = Doctor::of(&[&server.url(), "--top", "0"]).report();
    assert_eq!(none.code, 0, "{none}");
}

/// A report that nobody can read must not look like a good one.
#[test]
fn a_report_that_cannot_be_written_ends_with_74() {
    let server = crate::server().start().unwrap();
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    for output in ["text", "json"] {
        let ended = Command::new(env!("CARGO_BIN_EXE_redis-guard"))
            .args(["doctor", &server.url(), "--sample", "20ms", "--output", output])
            .stdout(full())
            .output()
            .unwrap();
        assert_eq!(ended.status.code(), Some(74), "{ended:?}");
        assert!(String::from_utf8_lossy(&ended.stderr).contains("cannot be written"), "{ended:?}");
    }
}
