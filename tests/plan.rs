//! `redis-guard plan`, the binary itself, on numbers and on real servers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "doctor/fake.rs"]
mod fake;
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::thread;

use serde_json::{Value, json};
use support::server::poll;
use support::{
    Auth, Cluster, Resp, SEVEN, TestServer, Transport, VendorScript, VendorServer, program,
};

struct Ran {
    exit: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn exited(self, exit: i32) -> Self {
        assert_eq!(self.exit, exit, "{}{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stdout.contains(word), "{word:?} is not in {}", self.stdout);
        }
        self
    }

    #[track_caller]
    fn complains(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in {}", self.stderr);
        }
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

fn plan(args: &[&str]) -> Ran {
    plan_with(args, &[])
}

fn plan_with(args: &[&str], env: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_redis-guard"));
    for name in ["REDIS_URL", "REDISCLI_AUTH", "RUST_LOG", "NO_COLOR"] {
        command.env_remove(name);
    }
    let Output { status, stdout, stderr } =
        command.arg("plan").args(args).envs(env.iter().copied()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { exit: status.code().unwrap(), stdout: text(stdout), stderr: text(stderr) }
}

/// The same with the words of one line as arguments.
fn plan_line(line: &str) -> Ran {
    plan(&line.split_whitespace().collect::<Vec<_>>())
}

#[test]
fn what_does_not_fit_ends_with_2_and_says_what_would() {
    let ran = plan_line("--maxclients 10000 --instances 240 --pool-size 50").exited(2);
    assert_eq!(
        ran.stdout.lines().next(),
        Some("240 × 50 = 12,000 does not fit 10,000 − 200"),
        "the sentence comes first"
    );
    let ran = ran.says(&[
        "\n  240 processes, 50 each   12,000\n",
        "\n  missing                   2,200\n",
        "\n  largest max_connections      40\n",
        "\n  max_connections 50 → 40 frees 2,400 slots\n",
        "\nin code\n  .max_connections(40)\n",
    ]);
    assert_eq!(ran.stderr, "");
}

#[test]
fn what_fits_ends_with_0() {
    plan_line("--maxclients 10000 --instances 150 --pool-size 50")
        .exited(0)
        .says(&["150 × 50 = 7,500 fits 10,000 − 200 (2,300 left)\n", ".max_connections(50)\n"]);
    plan_line("--maxclients 100 --instances 2").exited(0).says(&["2 × 16 = 32 fits 100 − 16"]);
}

#[test]
fn every_flag_counts() {
    plan_line(
        "--maxclients 100000 --instances 240 --surge 25% --workers 4 --pool-size 50 --replicas 2 \
         --nodes 6 --others 25 --reserve 1000",
    )
    .exited(0)
    .says(&["(240 + 60) × 4 × 50 + 2 replicas + 10 cluster links + 25 others = 60,037 fits 100,000 − 1,000"]);
    plan_line("--maxclients 100 --instances 4 --surge 3")
        .says(&["(4 + 3) × 16 = 112 does not fit"]);
}

#[test]
fn strict_wants_room_for_the_reserve_or_one_more_surge() {
    let tight = "--maxclients 10000 --instances 195 --pool-size 50";
    plan_line(tight).exited(0).says(&["tight: the 50 left"]);
    plan_line(&format!("{tight} --strict")).exited(1);
    plan_line("--maxclients 10000 --instances 137 --surge 25% --pool-size 48 --strict").exited(1);
    plan_line("--maxclients 10000 --instances 136 --surge 25% --pool-size 48 --strict").exited(0);
    plan_line("--maxclients 10000 --instances 240 --pool-size 50 --strict").exited(2);
}

#[test]
fn serverless_counts_the_sandboxes_of_two_versions() {
    plan_line("--maxclients 10000 --instances 3000 --serverless").exited(0).says(&[
        "(3,000 + 3,000) × 1 = 6,000 fits",
        "6,000 sandboxes, 1 each",
        "frozen",
        "idle_timeout",
        "`timeout 60`",
        "proxy",
        "--surge",
    ]);
    plan_line("--maxclients 10000 --instances 3000 --serverless --connections 2")
        .exited(2)
        .says(&["concurrency 3,000 → 2,450 frees 2,200 slots"]);
    plan_line("--maxclients 10000 --instances 3000 --serverless --connections 2 --surge 10%")
        .exited(0)
        .says(&["(3,000 + 300) × 2 = 6,600 fits"]);
}

#[test]
fn json_has_plain_numbers() {
    let ran =
        plan_line("--maxclients 10000 --instances 240 --pool-size 50 --output json").exited(2);
    let json = ran.json();
    assert_eq!(
        (&json["schema_version"], &json["command"], &json["exit_code"], &json["server"]),
        (&json!(1), &json!("plan"), &json!(2), &Value::Null)
    );
    assert_eq!(json["summary"], "240 × 50 = 12,000 does not fit 10,000 − 200");
    assert_eq!(
        json["inputs"],
        json!({
            "maxclients": 10_000, "maxclients_from": "flag", "reserve": 200, "instances": 240,
            "surge": { "instances": 0 }, "workers": 1, "pool_size": 50, "min_limit": 2, "replicas": 0,
            "cluster_links": 0, "others": 0, "serverless": false,
        })
    );
    assert_eq!(
        json["results"],
        json!({
            "fits": false, "tight": false, "needed": 12_000, "available": 9_800, "headroom": 0,
            "shortfall": 2_200, "saturation": 1.2, "surge_instances": 0, "processes": 240, "floor": 480, "floor_fits": true,
            "largest_pool_size": 40, "largest_instances": 196,
        })
    );
    assert_eq!(
        json["levers"][0],
        json!({
            "change": "max_connections", "from": 50, "to": 40, "slots": 2_400, "needed": 9_600,
            "fits": true, "summary": "max_connections 50 → 40 frees 2,400 slots",
        })
    );
}

#[test]
fn what_no_pressure_takes_back_is_told_where_it_does_not_fit() {
    let plan = "--maxclients 10000 --instances 2000 --pool-size 16";
    let note =
        "2,000 processes × 8 that no pressure takes back (min_limit, or the reserves) = 16,000";
    plan_line(&format!("{plan} --min-limit 8")).exited(2).says(&[note]);
    assert!(!plan_line(plan).exited(2).stdout.contains("no pressure"));
}

#[test]
fn there_is_no_colour_in_a_pipe() {
    let ran = plan_line("--maxclients 10000 --instances 240");
    assert!(!ran.stdout.contains('\u{1b}'), "{:?}", ran.stdout);
    let forced = ["--maxclients", "10000", "--instances", "240"];
    let coloured = plan_with(&forced, &[("CLICOLOR_FORCE", "1")]);
    assert!(coloured.stdout.contains('\u{1b}'), "{:?}", coloured.stdout);
    let not = plan_with(&forced, &[("NO_COLOR", "1"), ("TERM", "xterm-256color")]);
    assert_eq!(not.stdout, ran.stdout);
}

#[test]
fn the_largest_numbers_are_numbers() {
    let most = u64::MAX.to_string();
    for flag in ["--instances", "--workers", "--pool-size", "--others", "--replicas", "--nodes"] {
        let mut args = vec!["--maxclients", &most, flag, &most, "--reserve", "0"];
        if flag != "--instances" {
            args.extend(["--instances", "2"]);
        }
        plan(&args).exited(2).says(&["= 18,446,744,073,709,551,615 or more does not fit"]);
    }
    plan(&["--maxclients", "1", "--instances", "1", "--reserve", &most]).exited(2);
}

#[test]
fn a_wrong_command_line_ends_with_64_and_says_what_is_wrong() {
    for (line, words) in [
        ("", "--instances <N>"),
        ("--maxclients 100", "--instances <N>"),
        ("--instances 3", "--maxclients <N>"),
        ("--maxclients ten --instances 3", "'ten' for '--maxclients <N>': not a whole number"),
        ("--maxclients 10,000 --instances 3", "not a whole number"),
        ("--maxclients 18446744073709551616 --instances 3", "not a whole number"),
        ("--maxclients 0 --instances 3", "it has to be at least 1"),
        ("--maxclients 9 --instances 0", "it has to be at least 1"),
        ("--maxclients 9 --instances 3 --pool-size 0", "it has to be at least 1"),
        ("--maxclients 9 --instances 3 --workers 0", "it has to be at least 1"),
        ("--maxclients 9 --instances -3", "-3"),
        ("--maxclients 9 --instances 3 --replicas x", "--replicas <N>"),
        ("--maxclients 9 --instances 3 --surge 2.5%", "a percentage such as 25%"),
        ("--maxclients 9 --instances 3 --surge %", "a percentage such as 25%"),
        ("--maxclients 9 --instances 3 --surge=-1", "a percentage such as 25%"),
        ("--maxclients 9 --instances 3 --connections 2", "--serverless"),
        ("--maxclients 9 --instances 3 --serverless --pool-size 2", "--pool-size"),
        ("--maxclients 9 --instances 3 --serverless --workers 2", "--workers"),
        ("--maxclients 9 --instances 3 --output xml", "json"),
        ("--maxclients 9 --instances 3 --frobnicate", "--frobnicate"),
        ("http://127.0.0.1 --instances 3", "URL"),
        ("redis://127.0.0.1:99999 --instances 3", "URL"),
        ("redis://127.0.0.1:1 --instances 3 --timeout 0s", "zero"),
        ("redis://127.0.0.1:1 --instances 3 --timeout soon", "--timeout"),
        ("redis://127.0.0.1:1 --instances 3 --cacert /no/such/file", "/no/such/file"),
    ] {
        let ran = plan_line(line).exited(64).complains(&[words]);
        assert_eq!(ran.stdout, "", "{line}");
    }
}

#[test]
fn the_server_may_be_named_by_host_and_port_or_by_the_environment() {
    let server = TestServer::builder().maxclients(200).start().unwrap();
    let address = format!("127.0.0.1:{}", server.port());
    plan(&[&address, "--instances", "4"]).exited(0).says(&["4 × 16 = 64 fits 200 − 16"]);
    let asked = plan_with(&["--instances", "4"], &[("REDIS_URL", &server.url())]);
    asked.exited(0).says(&["4 × 16 = 64 fits 200 − 16"]);
    let dead = [("REDIS_URL", "redis://127.0.0.1:1")];
    plan_with(&["--instances", "4"], &dead).exited(3);
    plan_with(&["--instances", "4", "--maxclients", "100"], &dead).exited(0);
    plan_with(&["--instances", "4"], &[("REDIS_URL", "")]).exited(64).complains(&["REDIS_URL"]);
}

#[test]
fn a_malformed_url_is_reported_without_its_password() {
    for url in ["redis://:s3cret@127.0.0.1:99999", "http://u:s3cret@h", "redis://u:s3cret@h/x"] {
        let ran = plan(&[url, "--instances", "2"]).exited(64);
        assert!(!ran.stderr.contains("s3cret"), "{}", ran.stderr);
    }
}

#[test]
fn a_server_tells_its_ceiling_and_its_replicas() {
    let at_once = ("repl-diskless-sync-delay", "0");
    let server = TestServer::builder().maxclients(200).arg(at_once.0, at_once.1).start().unwrap();
    let master = format!("127.0.0.1 {}", server.port());
    let _replica = TestServer::builder().arg("replicaof", &master).start().unwrap();
    let online = || server.admin().text(&["INFO"]).contains("state=online").then_some(());
    poll(std::time::Duration::from_secs(20), online).unwrap();
    server.admin().text(&["CONFIG", "RESETSTAT"]);

    let ran = plan(&[&server.url(), "--instances", "4", "--pool-size", "50"]).exited(2);
    let ran = ran.says(&[
        "4 × 50 + 1 replica = 201 does not fit 200 − 16\n",
        "in use on the server now: 3, 2 of them clients",
    ]);

    assert_eq!(ran.stderr, "");
    assert_eq!(server.admin().info_u64("total_connections_received"), 1, "one connection");
    let only = ["info", "client|setname", "client|setinfo", "hello", "ping", "config|resetstat"];
    // An older server counts no subcommands, and the reset is ours.
    let only = only.map(|command| match program().redis_version() >= SEVEN {
        true => command,
        false => command.split('|').next().unwrap(),
    });
    let not_only = ["replconf", "psync"];
    for line in server.admin().text(&["INFO", "commandstats"]).lines() {
        let Some((command, _)) = line.strip_prefix("cmdstat_").and_then(|l| l.split_once(':'))
        else {
            continue;
        };
        assert!(only.contains(&command) || not_only.contains(&command), "{command}");
    }
}

#[test]
fn what_is_given_wins_over_what_the_server_says() {
    let server = TestServer::builder().maxclients(200).start().unwrap();
    let flags =
        ["--instances", "4", "--maxclients", "10000", "--replicas", "2", "--output", "json"];
    let ran = plan(&[&[server.url().as_str()][..], &flags].concat()).exited(0);
    let json = ran.json();
    assert_eq!(
        (&json["inputs"]["maxclients"], &json["inputs"]["maxclients_from"]),
        (&json!(10_000), &json!("flag"))
    );
    assert_eq!(
        (&json["inputs"]["replicas"], &json["server"]["maxclients"]),
        (&json!(2), &json!(200))
    );
    let notes = json["notes"].to_string();
    for note in [
        "planned for --maxclients 10,000; the server says 200",
        "planned for --replicas 2; the server says 0",
    ] {
        assert!(notes.contains(note), "{notes}");
    }
    let ran = plan(&[&server.url(), "--instances", "4", "--output", "json"]).exited(0);
    assert_eq!(ran.json()["inputs"]["maxclients_from"], "server");
}

#[test]
fn a_full_server_is_heard_and_ends_with_3() {
    let server = TestServer::builder().maxclients(8).start().unwrap();
    let occupants = server.fill();
    let refused = server.admin().info_u64("rejected_connections");

    let ran = plan(&[&server.url(), "--instances", "4"]).exited(3).complains(&[
        "[max_clients]: ERR max number of clients reached",
        "the server is full, for this too",
        "--maxclients N",
    ]);
    assert_eq!(ran.stdout, "");
    assert_eq!(server.admin().info_u64("rejected_connections"), refused + 1, "dialed once");

    let ran = plan(&[&server.url(), "--instances", "4", "--output", "json"]).exited(3);
    let json = ran.json();
    assert_eq!((&json["schema_version"], &json["exit_code"]), (&json!(1), &json!(3)));
    assert_eq!(json["error"]["outcome"], "max_clients");
    drop(occupants);
}

#[test]
fn a_full_server_says_nothing_over_tls() {
    if support::lacks_tls() {
        return;
    }
    let server = TestServer::builder().maxclients(8).tls(true).start().unwrap();
    let _occupants = server.fill();
    plan(&[&server.tls_url(), "--instances", "4"])
        .exited(3)
        .complains(&["[suspected_max_clients]", "as a full server does over TLS"]);
}

#[test]
fn no_connection_ends_with_3() {
    plan(&["redis://127.0.0.1:1", "--instances", "4"]).exited(3).complains(&["[refused]"]);
    // Accepts, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    plan(&[&url, "--instances", "4", "--timeout", "300ms"]).exited(3).complains(&["[timeout]"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_speaks_http_ends_with_3() {
    let server = VendorServer::start(VendorScript::HttpServer).await.unwrap();
    let url = server.url();
    let ran = tokio::task::spawn_blocking(move || plan(&[&url, "--instances", "4"])).await.unwrap();
    ran.exited(3).complains(&["redis-guard: redis at 127.0.0.1"]);
}

#[test]
fn the_password_may_come_from_the_environment() {
    let server = TestServer::builder().maxclients(200).password("s3cret").start().unwrap();
    let url = server.url();
    let args = [url.as_str(), "--instances", "4"];
    plan_with(&args, &[("REDISCLI_AUTH", "s3cret")]).exited(0);
    for ran in [plan(&args), plan_with(&args, &[("REDISCLI_AUTH", "guess")])] {
        let ran = ran.exited(3).complains(&["[auth]"]);
        assert!(!ran.stderr.contains("guess"), "{}", ran.stderr);
    }
    let url = server.url_with(Transport::Tcp, Resp::Resp3, Auth::Password("s3cret"), 0);
    plan_with(&[&url, "--instances", "4"], &[("REDISCLI_AUTH", "guess")]).exited(0);
}

#[test]
fn a_server_that_denies_info_needs_maxclients_given() {
    let server = TestServer::builder().maxclients(200).start().unwrap();
    server.admin().text(&["ACL", "SETUSER", "plan", "on", ">pw", "+@all", "-info"]);
    let url = server.url_with(Transport::Tcp, Resp::Resp2, Auth::User("plan", "pw"), 0);
    plan(&[&url, "--instances", "4"]).exited(64).complains(&["no permissions", "--maxclients N"]);
    plan(&[&url, "--instances", "4", "--maxclients", "200"]).exited(0).says(&[
        "4 × 16 = 64 fits 200 − 16",
        "INFO was refused",
        "no permissions",
    ]);
}

#[test]
fn one_byte_of_info_that_is_not_utf_8_costs_nothing_but_itself() {
    let info =
        b"maxclients:200\r\nmodule:name=\xff\r\nconnected_clients:2\r\nconnected_slaves:1\r\n";
    let server = fake::Fake::builder().info(info).start();
    plan(&[&server.url(), "--instances", "4"])
        .exited(0)
        .says(&["4 × 16 + 1 replica = 65 fits 200 − 16", "3, 2 of them clients"]);
}

#[test]
fn slots_that_the_server_keeps_from_ordinary_clients_are_not_planned_on() {
    let info = b"redis_version:6.3.4\r\nmvcc_depth:0\r\nconnected_clients:2\r\nmaxclients:200\r\n";
    let reserved = "*2\r\n$19\r\nmaxclients-reserved\r\n$3\r\n100\r\n";
    let server = fake::Fake::builder().info(info).reply("CONFIG", reserved).start();
    plan(&[&server.url(), "--instances", "4"])
        .exited(0)
        .says(&["4 × 16 = 64 fits 200 − 116", "100 of its slots are not for ordinary clients"]);
    plan(&[&server.url(), "--instances", "6"]).exited(2).says(&["does not fit 200 − 116"]);
}

#[test]
fn tls_with_an_authority_of_ones_own() {
    if support::lacks_tls() {
        return;
    }
    let server = TestServer::builder().maxclients(200).tls(true).start().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), server.ca_pem()).unwrap();
    let (url, file) = (server.tls_url(), file.path().to_str().unwrap());
    plan(&[&url, "--instances", "4", "--cacert", file]).exited(0);
    plan(&[&url, "--instances", "4"]).exited(3).complains(&["certificate"]);
}

#[test]
fn a_node_of_a_cluster_tells_its_links() {
    let info = "# Clients\r\nconnected_clients:5\r\ncluster_connections:10\r\nmaxclients:1000\r\n";
    plan(&[&says(info), "--instances", "4"])
        .exited(0)
        .says(&["4 × 16 + 10 cluster links = 74 fits 1,000 − 20"]);
    plan(&[&says(info), "--instances", "4", "--nodes", "3"]).says(&["+ 4 cluster links"]);
}

#[test]
fn an_info_without_a_ceiling_needs_maxclients_given() {
    for info in
        ["", "maxclients", "# Clients\r\nconnected_clients:5\r\nmaxclients:-1\r\n", "\u{0}:\r"]
    {
        let url = says(info);
        plan(&[&url, "--instances", "4"]).exited(64).complains(&["does not tell its maxclients"]);
        plan(&[&url, "--instances", "4", "--maxclients", "100"]).exited(0);
    }
}

#[test]
fn a_replica_is_no_place_to_write_to() {
    let info = "connected_clients:5\r\nmaxclients:1000\r\nrole:slave\r\n";
    plan(&[&says(info), "--instances", "4"]).exited(0).says(&["this server is a replica"]);
}

/// The URL of a server that answers INFO with this.
fn says(info: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer(stream, info));
        }
    });
    format!("redis://{address}")
}

fn answer(stream: TcpStream, info: &str) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut words = Vec::new();
        for _ in 0..length(&mut stream)? {
            let mut word = vec![0; length(&mut stream)? + 2];
            stream.read_exact(&mut word).ok()?;
            words.push(String::from_utf8_lossy(&word).trim_end().to_ascii_uppercase());
        }
        let reply = match words.first()?.as_str() {
            "INFO" => format!("${}\r\n{info}\r\n", info.len()),
            "PING" => "+PONG\r\n".to_owned(),
            _ => "+OK\r\n".to_owned(),
        };
        stream.get_mut().write_all(reply.as_bytes()).ok()?;
    }
}

fn length(stream: &mut impl BufRead) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    line.get(1..)?.trim_end().parse().ok()
}

#[test]
fn a_sentinel_is_no_server_to_plan_for() {
    let info = "redis_mode:sentinel\r\nconnected_clients:3\r\nmaxclients:10000\r\n\
                master0:name=mymaster,status=ok,address=10.0.0.7:6379,slaves=1,sentinels=3\r\n";
    let sentinel = fake::Fake::builder().info(info).start();
    plan(&[&sentinel.url(), "--instances", "3"])
        .exited(64)
        .complains(&["a sentinel", "redis://10.0.0.7:6379 (mymaster)"]);
}

#[test]
fn a_cluster_is_planned_for_the_node_with_the_least_room() {
    let cluster = Cluster::with_replicas(3, 1, &TestServer::builder().maxclients(400)).unwrap();
    cluster.node(2).admin().set_maxclients(150);
    let url = cluster.node(0).url();
    let ran = plan(&[&url, "--instances", "8", "--pool-size", "16", "--output", "json"]).exited(2);
    let json = ran.json();
    assert_eq!(
        json["summary"],
        "8 × 16 + 1 replica + 10 cluster links = 139 does not fit 150 − 16"
    );
    assert_eq!(json["server"]["server"], *cluster.address(2));
    assert_eq!(json["cluster"]["nodes"].as_array().map(Vec::len), Some(6));
    plan(&[&url, "--instances", "7", "--pool-size", "16"]).exited(0).says(&[
        "a cluster, 6 nodes asked",
        &cluster.address(2),
        "max_connections is for each node",
    ]);

    // Whoever lets nobody in is named, and the others are planned for.
    cluster.node(1).pause();
    cluster.node(2).admin().set_maxclients(12);
    let occupants = cluster.node(2).fill();
    let ran = plan(&[&url, "--instances", "8", "--timeout", "1s"]);
    let strict = plan(&[&url, "--instances", "8", "--timeout", "1s", "--strict"]);
    // What the nodes have matters only to those who do not say it.
    let told = ["--maxclients", "400", "--instances", "8", "--timeout", "1s", "--strict"];
    let told = plan(&[&[url.as_str()], &told[..]].concat());
    cluster.node(1).resume();
    let full = format!("{} could not be asked (ERR max number of clients", cluster.address(2));
    let hung = format!("{} could not be asked", cluster.address(1));
    ran.exited(0).says(&["fits 400 − 16", &full, &hung]);
    strict.exited(1).says(&["fits 400 − 16", &full, &hung]);
    told.exited(0);
    drop(occupants);
}

#[test]
fn a_node_that_denies_info_is_named_and_the_others_are_planned_for() {
    let settings = TestServer::builder().maxclients(400).acl_user("plan", "pw");
    let cluster = Cluster::start(2, &settings).unwrap();
    cluster.node(1).admin().text(&["ACL", "SETUSER", "plan", "+@all", "-info"]);
    let [first, silent] = [0, 1].map(|index| cluster.address(index));
    plan(&[&format!("redis://plan:pw@{first}"), "--instances", "8"]).exited(0).says(&[
        "fits 400 − 16",
        &format!("the one with the least room, {first}"),
        &format!("{silent} does not tell its maxclients (NoPerm"),
    ]);
}

#[test]
fn a_node_that_does_not_name_the_others_is_planned_for_alone() {
    let info = "redis_mode:cluster\r\nconnected_clients:5\r\ncluster_connections:10\r\nmaxclients:1000\r\n";
    let node = fake::Fake::builder().info(info).start();
    plan(&[&node.url(), "--instances", "4"]).exited(0).says(&[
        "one node of a cluster",
        "unknown command",
        "+ 10 cluster links",
    ]);
}
