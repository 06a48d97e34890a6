//! The example `soak`, for a few seconds: that it does what it says. Whether anything grows takes hours to see;
//! what is left behind, or hangs, does not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

mod support;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::Value;
use support::examples::built;
use support::server::poll;
use tempfile::TempDir;

const TOPOLOGIES: [&str; 3] = ["single", "sentinel", "cluster"];
const KINDS: [&str; 15] = [
    "plain",
    "lease",
    "try_acquire",
    "leak",
    "shared",
    "multiplexed",
    "blocking",
    "transaction",
    "subscriber",
    "visitor",
    "publish",
    "service",
    "guarded",
    "cancelled",
    "churn",
];
/// Far above the half minute that the run takes.
const HANG: Duration = Duration::from_secs(300);

/// A program that has ended.
struct Ended {
    success: bool,
    stdout: String,
    stderr: String,
}

fn start(folder: &Path, args: &[&str]) -> Child {
    let [out, err] = ["stdout", "stderr"].map(|name| File::create(folder.join(name)).unwrap());
    Command::new(built("soak", ""))
        .args(args)
        .current_dir(folder)
        .stdout(Stdio::from(out))
        .stderr(Stdio::from(err))
        .spawn()
        .unwrap()
}

fn end(folder: &Path, mut soak: Child) -> Ended {
    let ended = poll(HANG, || soak.try_wait().unwrap());
    let [stdout, stderr] =
        ["stdout", "stderr"].map(|name| fs::read_to_string(folder.join(name)).unwrap());
    let Some(status) = ended else {
        // It ends its servers itself.
        terminate(&soak);
        panic!("the example hangs: {stdout}{stderr}");
    };
    Ended { success: status.success(), stdout, stderr }
}

fn terminate(soak: &Child) {
    let kill = format!("kill -TERM {}", soak.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

fn soak(folder: &Path, args: &[&str]) -> Ended {
    end(folder, start(folder, args))
}

/// One run for all tests.
struct Soak {
    report: Value,
    chart: String,
    ended: Ended,
}

static SOAK: LazyLock<Soak> = LazyLock::new(|| {
    let folder = TempDir::new().unwrap();
    let args = ["--minutes", "0.25", "--json", "soak.json", "--svg", "soak.svg"];
    let ended = soak(folder.path(), &args);
    let report = fs::read_to_string(folder.path().join("soak.json"));
    let report = report.unwrap_or_else(|_| panic!("{}{}", ended.stdout, ended.stderr));
    Soak {
        report: serde_json::from_str(&report).unwrap(),
        chart: fs::read_to_string(folder.path().join("soak.svg")).unwrap(),
        ended,
    }
});

#[test]
fn callers_of_each_kind_are_served_at_each_topology_and_all_calls_end() {
    for topology in TOPOLOGIES {
        let calls = SOAK.report["calls"][topology].as_object().unwrap();
        let kinds: BTreeSet<&str> = calls.keys().map(String::as_str).collect();
        assert_eq!(kinds, BTreeSet::from(KINDS));
        for (kind, count) in calls {
            assert!(count["served"].as_u64().unwrap() > 0, "{topology} {kind}: {count:#}");
            assert_eq!(count["hung"], 0, "{topology} {kind}: {count:#}");
        }
        assert!(calls["cancelled"]["cancelled"].as_u64().unwrap() > 0, "{calls:#?}");
    }
}

#[test]
fn faults_happen_one_at_a_time_and_all_are_served_after_each() {
    let faults = SOAK.report["faults"].as_array().unwrap();
    assert!(faults.len() >= 2, "{faults:?}");
    let seconds = |fault: &Value, what: &str| fault[what].as_f64().unwrap();
    for fault in faults {
        let [from, mended, served] =
            ["from_seconds", "mended_seconds", "served_seconds"].map(|what| seconds(fault, what));
        assert!(from < mended && mended <= served, "{fault}");
    }
    for pair in faults.windows(2) {
        let (served, next) =
            (seconds(&pair[0], "served_seconds"), seconds(&pair[1], "from_seconds"));
        assert!(served < next, "{pair:?}");
    }
}

#[test]
fn nothing_is_left_or_found_and_the_verdict_is_the_exit_code() {
    let Soak { report, ended, .. } = &*SOAK;
    let verdict = &report["verdict"];
    assert_eq!(verdict["findings"], serde_json::json!([]), "{}", ended.stderr);
    for what in ["fds", "tasks"] {
        assert_eq!(report["before"][what], report["after"][what], "{what}");
    }
    assert!(report["books_compared"].as_u64().unwrap() >= 3, "{report:#}");
    let rows = verdict["rows"].as_array().unwrap();
    let fine = rows.iter().all(|row| row["fine"] == true);
    let compared: Vec<_> = rows.iter().map(|row| row["what"].as_str().unwrap()).collect();
    for what in ["heap", "memory", "file descriptors", "tasks", "p99 of a GET, cluster"] {
        assert!(compared.contains(&what), "{what} is not in {compared:?}");
    }
    // A few seconds on a busy machine may well end slower than they began.
    assert_eq!(verdict["passed"], fine, "{verdict:#}");
    assert_eq!(ended.success, fine, "{}{}", ended.stdout, ended.stderr);
}

#[test]
fn samples_a_table_and_a_chart_show_the_run() {
    let Soak { report, chart, ended } = &*SOAK;
    let samples = report["samples"].as_array().unwrap();
    assert!(samples.len() >= 100, "{}", samples.len());
    for sample in samples {
        let rss = sample["rss_kib"].as_u64().unwrap() * 1_024;
        assert!((1..rss).contains(&sample["heap_bytes"].as_u64().unwrap()), "{sample}");
        assert!(sample["fds"].as_u64().unwrap() > sample["sockets"].as_u64().unwrap(), "{sample}");
    }
    assert!(samples.iter().any(|sample| sample["calm"] == true));
    assert!(samples.iter().any(|sample| sample["p50_p99_ms"]["cluster"].is_array()));
    assert!(chart.starts_with("<svg") && chart.contains("memory, MiB"), "{chart}");
    for words in ["first quarter", "file descriptors", "chart: soak.svg", "json:  soak.json"] {
        assert!(ended.stdout.contains(words), "{words} is not in {}", ended.stdout);
    }
}

#[test]
fn a_soak_that_is_terminated_leaves_no_server_behind() {
    let folder = TempDir::new().unwrap();
    let child = start(folder.path(), &["--minutes", "5", "--svg", "soak.svg"]);
    let servers = || {
        let (id, mut command) = (child.id().to_string(), Command::new("sh"));
        let script = "grep -ls \"^PPid:[[:space:]]*$1\\$\" /proc/[0-9]*/status | cut -d/ -f3";
        let found = command.args(["-c", script, "sh", &id]).output().unwrap();
        let pids = String::from_utf8(found.stdout).unwrap();
        pids.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let started =
        || fs::read_to_string(folder.path().join("stderr")).unwrap().contains("all served");
    poll(HANG, || started().then_some(())).expect("a fault should have been");
    let servers = servers();
    assert!(servers.len() >= 11, "{servers:?}");
    terminate(&child);
    let ended = end(folder.path(), child);
    assert!(!ended.success && ended.stderr.contains("soak: terminated"), "{}", ended.stderr);
    for server in servers {
        let program = fs::read_to_string(format!("/proc/{server}/comm")).unwrap_or_default();
        assert!(!program.contains("redis"), "{server} still runs");
    }
}

#[test]
fn bad_arguments_are_named_and_nothing_is_started() {
    let folder = TempDir::new().unwrap();
    for (args, words) in [
        (&["--minutes"][..], "--minutes needs a value"),
        (&["--minutes", "many"], "--minutes many: invalid float"),
        (&["--minutes=0"], "--minutes: expected 0.1 to 10000"),
        (&["--only", "no such fault"], "--only no such fault: there is no such fault"),
        (&["--url", "redis://localhost"], "unknown argument `--url`"),
        (&["--json", "stdout/soak.json"], "cannot write stdout/soak.json: "),
    ] {
        let Ended { success, stdout, stderr } = soak(folder.path(), args);
        assert!(!success && stdout.is_empty(), "{args:?}: {stdout}{stderr}");
        assert!(stderr.starts_with(&format!("soak: {words}")), "{args:?}: {stderr}");
    }
    let help = soak(folder.path(), &["--help"]);
    assert!(help.success && help.stdout.starts_with("usage: soak"), "{}", help.stderr);
}
