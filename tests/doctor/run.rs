//! The binary, run as an operator runs it, and what it answers.

use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::TestServer;
use crate::support::server::{Reply, poll};

/// The password of every test that has one: it must never be seen.
pub(crate) const SECRET: &str = "hunter2-Geheimnis";

/// How the doctor's connection is called.
pub(crate) const OWN_NAME: &str = "redis-guard:doctor";

/// Every check that there is, in the report's order.
pub(crate) const CHECKS: [&str; 52] = [
    "reachability.url",
    "reachability.dns",
    "reachability.connect",
    "reachability.tls",
    "reachability.auth",
    "reachability.ping",
    "reachability.time_wait",
    "reachability.own_files",
    "capacity.saturation",
    "capacity.headroom",
    "capacity.ulimit",
    "capacity.rejections",
    "capacity.churn",
    "holders.sources",
    "holders.idle",
    "holders.dead",
    "holders.unnamed",
    "holders.blocked",
    "holders.pubsub",
    "holders.replicas",
    "holders.young",
    "holders.output_buffers",
    "server.loading",
    "server.memory",
    "server.slowlog",
    "server.timeout",
    "server.tcp_keepalive",
    "server.tcp_backlog",
    "server.output_buffer_limits",
    "server.maxmemory_clients",
    "replication.role",
    "replication.link",
    "replication.replicas",
    "replication.lag",
    "sentinel.watched",
    "sentinel.master",
    "sentinel.state",
    "sentinel.agreement",
    "sentinel.quorum",
    "sentinel.replicas",
    "sentinel.room",
    "sentinel.addresses",
    "sentinel.capacity",
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

/// Far above what a run may take.
const HANG: Duration = Duration::from_secs(60);
const SEEN_LIMIT: Duration = Duration::from_secs(60);

/// A command line.
#[derive(Debug)]
pub(crate) struct Doctor {
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Doctor {
    /// `redis-guard` with these words, and no others.
    pub(crate) fn words(words: &[&str]) -> Self {
        Self { args: Vec::new(), env: Vec::new() }.args(words)
    }

    /// Examines these, and writes JSON.
    pub(crate) fn of(urls: &[&str]) -> Self {
        Self::words(&["doctor", "--output", "json"]).args(urls)
    }

    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn spawn(self) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_redis-guard"));
        command.args(&self.args);
        // Two seconds are for people.
        let examines = self.args.first().is_some_and(|arg| arg == "doctor");
        if examines && !self.args.iter().any(|arg| arg.starts_with("--sample")) {
            command.args(["--sample", "200ms"]);
        }
        for name in [
            "REDIS_URL",
            "REDISCLI_AUTH",
            "RUST_LOG",
            "NO_COLOR",
            "CLICOLOR_FORCE",
            "SSL_CERT_FILE",
        ] {
            command.env_remove(name);
        }
        command.envs(self.env);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary should start");
        let reader = |stream: Option<Box<dyn Read + Send>>| {
            let mut stream = stream.expect("it is piped");
            thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = stream.read_to_end(&mut bytes);
                String::from_utf8(bytes).expect("the doctor writes text")
            })
        };
        let stdout = reader(child.stdout.take().map(|stream| Box::new(stream) as _));
        let stderr = reader(child.stderr.take().map(|stream| Box::new(stream) as _));
        Running { child, stdout, stderr }
    }

    pub(crate) fn run(self) -> Ended {
        self.spawn().end()
    }

    /// Runs it, and reads the report.
    #[track_caller]
    pub(crate) fn report(self) -> Report {
        self.run().report()
    }

    /// Runs it on servers that must be, when it has gone, as they were before.
    #[track_caller]
    pub(crate) fn report_of(self, servers: &[&TestServer]) -> Report {
        let before: Vec<_> = servers.iter().map(|server| settings(server)).collect();
        let report = self.report();
        for (server, before) in servers.iter().zip(before) {
            let gone = || (server.admin().clients_named(OWN_NAME) == 0).then_some(());
            poll(SEEN_LIMIT, gone).expect("the doctor should leave no connection behind");
            assert_eq!(settings(server), before, "the doctor changes no setting");
        }
        report
    }
}

/// Everything that CONFIG SET could have changed. Redis 8 lists it in another order each time.
fn settings(server: &TestServer) -> BTreeMap<String, String> {
    let Ok(Reply::Array(listed)) = server.admin().command(&["CONFIG", "GET", "*"]) else {
        panic!("the admin may");
    };
    listed.chunks(2).map(|setting| (setting[0].text(), setting[1].text())).collect()
}

#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: thread::JoinHandle<String>,
    stderr: thread::JoinHandle<String>,
}

impl Running {
    /// As Ctrl-C does. (Not SIGINT itself: whoever is started in the background ignores that.)
    pub(crate) fn interrupt(&self) {
        let kill = format!("kill -TERM {}", self.child.id());
        let done = Command::new("sh").args(["-c", &kill]).status();
        assert!(done.is_ok_and(|status| status.success()), "{kill}");
    }

    /// What it said before it was ended.
    pub(crate) fn end_of_any_kind(mut self) -> Ended {
        let status = poll(HANG, || self.child.try_wait().expect("a child can be waited for"));
        let code = status.expect("it ends").code().unwrap_or(-1);
        let [stdout, stderr] = [self.stdout, self.stderr].map(|it| it.join().expect("it is read"));
        Ended { code, stdout, stderr }
    }

    #[track_caller]
    pub(crate) fn end(mut self) -> Ended {
        let status = poll(HANG, || self.child.try_wait().expect("a child can be waited for"));
        if status.is_none() {
            let _ = self.child.kill();
        }
        let [stdout, stderr] = [self.stdout, self.stderr].map(|it| it.join().expect("it is read"));
        let Some(status) = status else {
            panic!("the doctor hangs; stdout: {stdout}\nstderr: {stderr}")
        };
        let code = status.code().unwrap_or_else(|| panic!("no exit code: {status}: {stderr}"));
        let ended = Ended { code, stdout, stderr };
        for said in [&ended.stdout, &ended.stderr] {
            assert!(!said.contains(SECRET), "the password is shown: {ended:#?}");
        }
        assert!(!ended.stderr.contains("panicked"), "{ended:#?}");
        ended
    }
}

#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The report, which keeps to its rules whatever it says.
    #[track_caller]
    pub(crate) fn report(self) -> Report {
        let json = serde_json::from_str(&self.stdout);
        let json: Value = json.unwrap_or_else(|error| panic!("no JSON: {error}: {self:#?}"));
        let mut report = Report { code: self.code, json };
        report.keeps_to_its_rules();
        if report.warns_only_of_this_machine() {
            report.code = 0;
        }
        report
    }
}

/// What the doctor found.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) code: i32,
    pub(crate) json: Value,
}

/// What is slow here when the machine has other things to do, and is no fault of a test's server.
const SLOW_HERE: [&str; 4] =
    ["reachability.dns", "reachability.connect", "reachability.tls", "reachability.ping"];

impl Report {
    /// With `--strict` a warning alone is an exit code.
    fn warns_only_of_this_machine(&self) -> bool {
        let mut warnings = self.servers().flat_map(|server| server.of_level("warning"));
        self.code == 1
            && self.json["exit_code"] == 0
            && warnings.all(|warning| SLOW_HERE.contains(&warning))
    }

    #[track_caller]
    fn keeps_to_its_rules(&self) {
        assert_eq!(self.json["schema_version"], 1, "{self}");
        assert!(self.json["tool"].as_str().is_some_and(|tool| tool.starts_with("redis-guard ")));
        assert!(self.json["at"].as_u64().is_some_and(|at| at > 1_700_000_000), "{self}");
        for server in self.servers() {
            let ids: Vec<_> = server.checks().map(|check| check.id).collect();
            let mut known = CHECKS.iter().filter(|check| ids.contains(check));
            assert!(ids.iter().eq(&mut known), "known, each once, in order: {ids:?}");
            for check in server.checks() {
                assert!(!check.evidence.is_empty(), "{}: no evidence: {self}", check.id);
                if matches!(check.level, "warning" | "failed") {
                    let what = check.id;
                    assert!(!check.threshold.is_empty(), "{what}: held against what? {self}");
                    assert!(check.fix.is_some_and(|fix| !fix.is_empty()), "{what}: no fix: {self}");
                }
            }
            let bad = |level: &str| !server.of_level(level).is_empty();
            if server.verdict() == "nothing_wrong" {
                assert!(!bad("failed"), "something is: {self}");
            } else {
                assert!(bad("failed") || bad("warning"), "no check says why: {self}");
            }
            for verdict in server.verdicts_json() {
                assert!(verdict["summary"].as_str().is_some_and(|it| !it.is_empty()), "{self}");
                if !["nothing_wrong", "bad_url"]
                    .contains(&verdict["kind"].as_str().expect("a kind"))
                {
                    assert!(
                        verdict["reasons"].as_array().is_some_and(|it| !it.is_empty()),
                        "{self}"
                    );
                    assert!(
                        verdict["actions"].as_array().is_some_and(|it| !it.is_empty()),
                        "{self}"
                    );
                }
            }
        }
    }

    fn servers(&self) -> impl Iterator<Item = Server<'_>> {
        let servers = self.json["servers"].as_array().expect("a list of servers");
        servers.iter().map(|json| Server { report: self, json })
    }

    pub(crate) fn len(&self) -> usize {
        self.servers().count()
    }

    #[track_caller]
    pub(crate) fn server(&self, index: usize) -> Server<'_> {
        self.servers().nth(index).unwrap_or_else(|| panic!("no server {index}: {self}"))
    }

    /// The exit code and the main verdict of the only server.
    #[track_caller]
    pub(crate) fn is(&self, code: i32, verdict: &str) -> Server<'_> {
        assert_eq!(self.len(), 1, "{self}");
        let server = self.server(0);
        assert_eq!(server.verdict(), verdict, "{self}");
        assert_eq!(self.code, code, "exit code: {self}");
        server
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit code {}\n{:#}", self.code, self.json)
    }
}

/// What it found of one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server<'a> {
    report: &'a Report,
    pub(crate) json: &'a Value,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Check<'a> {
    pub(crate) id: &'a str,
    pub(crate) level: &'a str,
    pub(crate) evidence: &'a str,
    pub(crate) threshold: &'a str,
    pub(crate) fix: Option<&'a str>,
}

impl<'a> Server<'a> {
    #[track_caller]
    pub(crate) fn verdict(&self) -> &'a str {
        self.json["verdict"]["kind"].as_str().expect("a verdict")
    }

    fn verdicts_json(&self) -> impl Iterator<Item = &'a Value> {
        let also = self.json["also"].as_array().expect("a list of verdicts");
        std::iter::once(&self.json["verdict"]).chain(also)
    }

    /// The main one first.
    pub(crate) fn verdicts(&self) -> Vec<&'a str> {
        self.verdicts_json().filter_map(|verdict| verdict["kind"].as_str()).collect()
    }

    /// All that the verdicts of this kind say.
    #[track_caller]
    pub(crate) fn says(&self, kind: &str) -> String {
        let verdict = self.verdicts_json().find(|verdict| verdict["kind"] == kind);
        let verdict = verdict.unwrap_or_else(|| panic!("no verdict {kind}: {}", self.report));
        let list = |field: &str| {
            let lines = verdict[field].as_array().expect("a list");
            lines.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
        };
        let summary = verdict["summary"].as_str().expect("a summary");
        format!("{summary}\n{}\n{}", list("reasons"), list("actions"))
    }

    fn checks(&self) -> impl Iterator<Item = Check<'a>> + use<'a> {
        self.json["checks"].as_array().expect("a list of checks").iter().map(|check| Check {
            id: check["id"].as_str().expect("an id"),
            level: check["level"].as_str().expect("a level"),
            evidence: check["evidence"].as_str().expect("evidence"),
            threshold: check["threshold"].as_str().expect("a threshold"),
            fix: check["fix"].as_str(),
        })
    }

    #[track_caller]
    pub(crate) fn check(&self, id: &str) -> Check<'a> {
        let found = self.checks().find(|check| check.id == id);
        found.unwrap_or_else(|| panic!("no check {id}: {}", self.report))
    }

    /// Each of these checks has this level.
    #[track_caller]
    pub(crate) fn level(&self, level: &str, ids: &[&str]) -> &Self {
        for id in ids {
            let check = self.check(id);
            if SLOW_HERE.contains(id) && (level, check.level) == ("ok", "warning") {
                continue;
            }
            assert_eq!(check.level, level, "{check:#?} of {}", self.report);
        }
        self
    }

    /// The checks of this level.
    pub(crate) fn of_level(&self, level: &str) -> Vec<&'a str> {
        self.checks().filter(|check| check.level == level).map(|check| check.id).collect()
    }

    /// The evidence has this number in it, on its own.
    #[track_caller]
    pub(crate) fn shows(&self, id: &str, number: u64) -> &Self {
        let check = self.check(id);
        let digits = |c: char| c.is_ascii_digit() || c == ',' || c == '_';
        let numbers = check.evidence.split(|c: char| !digits(c));
        let found =
            numbers.map(|word| word.replace([',', '_'], "")).any(|word| word.parse() == Ok(number));
        assert!(found, "{number} is not in {check:#?}");
        self
    }

    /// All fixes and actions.
    pub(crate) fn advice(&self) -> String {
        let fixes = self.checks().filter_map(|check| check.fix).map(str::to_owned);
        let actions = self.verdicts_json().filter_map(|verdict| verdict["actions"].as_array());
        let actions = actions.flatten().filter_map(Value::as_str).map(str::to_owned);
        fixes.chain(actions).collect::<Vec<_>>().join("\n")
    }

    #[track_caller]
    pub(crate) fn number(&self, pointer: &str) -> u64 {
        let number = self.json.pointer(pointer).and_then(Value::as_u64);
        number.unwrap_or_else(|| panic!("no number {pointer}: {}", self.report))
    }

    pub(crate) fn report(&self) -> &'a Report {
        self.report
    }
}
