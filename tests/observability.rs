//! `examples/observability`: rules, their tests, the dashboard and the runbooks name what exists, and
//! each other.
//!
//! `promtool` (Debian's package `prometheus`, or `$PROMTOOL`) checks the rules and plays their tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, iter};

use redis_guard::{BreakerState, Outcome};
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

const RULES: [&str; 2] = ["recording.yml", "alerts.yml"];
const RULE_TESTS: [&str; 2] = ["alerts_test.yml", "trend_test.yml"];
const RUNBOOKS: &str =
    "https://github.com/redis-guard/redis-guard/blob/main/examples/observability/runbooks/";

/// redis_exporter's names, and where its source makes them (oliver006/redis_exporter, exporter/): the
/// maps of `INFO`'s fields in exporter.go, `extractConfigMetrics`, info.go; what begins with
/// `cluster_` it exports under its own name (`includeMetric` in metrics.go). Seen on 1.45.0 too, but
/// for `redis_max_clients`, which later versions have.
const REDIS_EXPORTER: [&str; 14] = [
    "redis_blocked_clients",            // metricMapGauges
    "redis_cluster_connections",        // includeMetric
    "redis_config_maxclients",          // extractConfigMetrics
    "redis_connected_clients",          // metricMapGauges
    "redis_connected_slaves",           // metricMapGauges
    "redis_connections_received_total", // metricMapCounters
    "redis_exporter_last_scrape_error", // Collect; label `err`
    "redis_instance_info",              // extractInfoMetrics; label `role`
    "redis_master_link_up",             // handleMetricsReplication
    "redis_master_sync_in_progress",    // handleMetricsReplication
    "redis_max_clients",                // metricMapGauges
    "redis_rejected_connections_total", // metricMapCounters
    "redis_up",                         // Collect
    "redis_uptime_in_seconds",          // metricMapGauges
];
/// Prometheus's own series.
const PROMETHEUS: &str = "ALERTS";
/// Labels that Prometheus gives, and the pool's, which all of the crate's metrics have.
const COMMON_LABELS: [&str; 3] = ["job", "instance", "pool"];

#[test]
fn every_metric_named_is_one_that_is_emitted() {
    let documented = documented();
    let recorded = recorded();
    let mut unused: BTreeSet<&str> = REDIS_EXPORTER.into();
    for (place, expr) in all_exprs() {
        for selector in selectors(&expr) {
            let name = selector.name.as_str();
            if name.contains(':') {
                assert!(recorded.contains(name), "{place}: no rule records {name}");
                continue;
            }
            unused.remove(name);
            let known = documented.contains_key(name)
                || REDIS_EXPORTER.contains(&name)
                || name == PROMETHEUS;
            assert!(known, "{place}: nobody emits {name}");
        }
    }
    assert!(unused.is_empty(), "listed as redis_exporter's, and not used: {unused:?}");
}

#[test]
fn labels_and_their_values_are_those_that_the_crate_gives() {
    let documented = documented();
    for (place, expr) in all_exprs() {
        for Selector { name, matchers } in selectors(&expr) {
            for (label, value) in matchers {
                if let Some(labels) = documented.get(&name) {
                    let known = COMMON_LABELS.contains(&label.as_str()) || labels.contains(&label);
                    assert!(known, "{place}: {name} has no label {label}");
                }
                for value in value.split('|').filter(|value| !value.contains('$')) {
                    assert!(is_given(&name, &label, value), "{place}: {name}{{{label}={value:?}}}");
                }
            }
        }
    }
}

#[test]
fn every_recorded_series_is_tested_and_used() {
    let recorded = recorded();
    let mut tested = BTreeSet::new();
    let mut used = BTreeSet::new();
    for test in rule_tests() {
        for case in list(&test["promql_expr_test"]) {
            tested.extend(selectors(text(&case["expr"])).into_iter().map(|found| found.name));
        }
    }
    for (place, expr) in all_exprs() {
        let others = selectors(&expr).into_iter().map(|found| found.name);
        used.extend(others.filter(|name| !place.ends_with(name.as_str())));
    }
    for name in recorded {
        assert!(tested.contains(&name), "no promql_expr_test of {name}");
        assert!(used.contains(&name), "nothing uses {name}");
    }
}

#[test]
fn every_alert_says_what_it_is_about() {
    for alert in alerts() {
        let name = text(&alert["alert"]);
        let severity = text(&alert["labels"]["severity"]);
        assert!(["critical", "warning"].contains(&severity), "{name}: severity {severity}");
        assert!(!text(&alert["labels"]["component"]).is_empty(), "{name}");
        let annotations = &alert["annotations"];
        assert!(text(&annotations["summary"]).contains("$labels"), "{name}: which one?");
        assert!(
            text(&annotations["description"]).contains("$value | humanize"),
            "{name}: how much?"
        );
        assert_eq!(text(&annotations["runbook_url"]), format!("{RUNBOOKS}{name}.md"));
    }
    let rules = fs::read_to_string(folder().join("alerts.yml")).unwrap();
    let lines: Vec<&str> = rules.lines().map(str::trim).collect();
    for (above, line) in lines.iter().zip(&lines[1..]) {
        let reason = !line.starts_with("- alert:") || above.starts_with('#');
        assert!(reason, "{line}: no comment says why its window and its `for` are what they are");
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let alerts: BTreeSet<String> =
        alerts().iter().map(|alert| text(&alert["alert"]).to_owned()).collect();
    let runbooks: BTreeSet<String> = fs::read_dir(folder().join("runbooks"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(alerts, runbooks);

    for name in &runbooks {
        let runbook =
            fs::read_to_string(folder().join("runbooks").join(format!("{name}.md"))).unwrap();
        let headings: Vec<&str> = runbook.lines().filter(|line| line.starts_with('#')).collect();
        let expected =
            [&format!("# {name}"), "## Meaning", "## Impact", "## Diagnosis", "## Mitigation"];
        assert_eq!(headings, expected, "{name}");
        let (_, mitigation) = runbook.split_once("## Mitigation").unwrap();
        assert!(mitigation.contains("\nNow:") && mitigation.contains("\nLater"), "{name}");
        assert!(runbook.contains("redis-guard "), "{name}: the doctor");
        let says_where = runbook.contains("`/status`") && !runbook.contains("`/`");
        assert!(runbook.to_lowercase().contains("status page") && says_where, "{name}");
        for link in runbook.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = folder().join("runbooks").join(link);
            assert!(link.starts_with("http") || target.is_file(), "{name}: {link}");
        }
    }
}

/// Whoever is paged copies them: checks, verdicts, commands and fields are those that there are.
#[test]
fn runbooks_name_what_the_doctor_and_the_status_page_print() {
    const CHECKS: &str = concat!(
        include_str!("../src/doctor/checks/capacity.rs"),
        include_str!("../src/doctor/checks/cluster/mod.rs"),
        include_str!("../src/doctor/checks/cluster/nodes.rs"),
        include_str!("../src/doctor/checks/cluster/slots.rs"),
        include_str!("../src/doctor/checks/holders.rs"),
        include_str!("../src/doctor/checks/reachability.rs"),
        include_str!("../src/doctor/checks/replication.rs"),
        include_str!("../src/doctor/checks/sentinel/master.rs"),
        include_str!("../src/doctor/checks/sentinel/mod.rs"),
        include_str!("../src/doctor/checks/sentinel/sentinels.rs"),
        include_str!("../src/doctor/checks/sentinel/servers.rs"),
        include_str!("../src/doctor/checks/server.rs"),
    );
    const VERDICTS: &str = include_str!("../src/doctor/report.rs");
    const STATUS: &str = concat!(
        include_str!("../src/vocabulary/error.rs"),
        include_str!("../src/vocabulary/outcome.rs"),
        include_str!("../src/vocabulary/rejection.rs"),
        include_str!("../src/server/observer.rs"),
        include_str!("../src/server/snapshot.rs"),
        include_str!("../src/server/watch.rs"),
        include_str!("../src/telemetry/status.rs"),
    );
    const GROUPS: [&str; 5] = ["capacity", "holders", "reachability", "replication", "server"];
    const FIELDS: [&str; 7] =
        ["breaker", "cluster", "endpoints[]", "fleet", "leaks[]", "sentinel", "watch"];
    let (mut checks, mut verdicts, mut commands, mut fields) = (0, 0, 0, 0);
    for (name, page) in pages() {
        for code in page.split('`').skip(1).step_by(2) {
            if code.starts_with("redis-guard ") {
                commands += 1;
                assert_can_be_run(&name, code);
            }
            let Some((first, rest)) = code.split_once('.') else { continue };
            let is_check = CHECKS.contains(&format!("\"{code}\""));
            // What it is called is a group of checks, and a field of the status.
            if ["cluster", "sentinel"].contains(&first) && is_check {
                checks += 1;
                continue;
            }
            if GROUPS.contains(&first) {
                checks += 1;
                assert!(is_check, "{name}: no check {code}");
            }
            if FIELDS.contains(&first) {
                fields += 1;
                for field in rest.split('.') {
                    let is_field = [format!("pub {field}:"), format!("rename = \"{field}\"")];
                    let known = is_field.iter().any(|text| STATUS.contains(text));
                    assert!(known, "{name}: no {field} of {code}");
                }
            }
        }
        for verdict in verdicts_of(&page) {
            verdicts += 1;
            let kind = format!("=> \"{}\"", verdict.replace(' ', "_"));
            let known = VERDICTS.contains(&kind) && !verdict.contains('_');
            assert!(known, "{name}: the doctor prints no verdict {verdict:?}");
        }
    }
    // What is not found cannot be wrong.
    let found = [checks, verdicts, commands, fields];
    assert!(found.iter().all(|found| *found >= 20), "{found:?}");
}

/// What stands behind the word: `` verdict `leak`, `full` or `loading` ``.
fn verdicts_of(page: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for mut rest in page.split("erdict ").skip(1).chain(page.split("erdict: ").skip(1)) {
        while let Some((verdict, after)) =
            rest.strip_prefix('`').and_then(|rest| rest.split_once('`'))
        {
            found.push(verdict);
            // A remark in brackets may stand between two.
            let after = match after.strip_prefix(" (").and_then(|after| after.split_once(')')) {
                Some((_, after)) => after,
                None => after,
            };
            let next = [", ", " or ", " and "].iter().find_map(|and| after.strip_prefix(and));
            rest = next.unwrap_or("");
        }
    }
    found
}

#[track_caller]
fn assert_can_be_run(name: &str, code: &str) {
    let mut words = code.split_whitespace().skip(1);
    let verb = words.next().unwrap();
    let source = match verb {
        "doctor" => include_str!("../src/bin/redis-guard/doctor.rs"),
        "plan" => include_str!("../src/bin/redis-guard/plan.rs"),
        "watch" => concat!(
            include_str!("../src/bin/redis-guard/watch/mod.rs"),
            include_str!("../src/bin/redis-guard/cli.rs")
        ),
        other => panic!("{name}: redis-guard has no {other}"),
    };
    for flag in words.clone().filter_map(|word| word.strip_prefix("--")) {
        let argument = format!("    {}: ", flag.replace('-', "_"));
        assert!(source.contains(&argument), "{name}: {verb} has no --{flag}");
    }
    // Named alone it is the tool that is meant; with arguments it is to be typed.
    if words.clone().next().is_some() {
        let has = |text: &str| words.clone().any(|word| word.starts_with(text));
        let complete = has("redis://") || (verb == "plan" && has("--maxclients"));
        assert!(complete, "{name}: of which server? {code}");
        assert!(verb != "plan" || has("--instances"), "{name}: {code}");
    }
}

#[test]
fn every_alert_is_tested_from_both_sides() {
    let (mut fires, mut is_silent) = (BTreeSet::new(), BTreeSet::new());
    for test in rule_tests() {
        for case in list(&test["alert_rule_test"]) {
            let name = text(&case["alertname"]).to_owned();
            match list(&case["exp_alerts"]).is_empty() {
                true => is_silent.insert(name),
                false => fires.insert(name),
            };
        }
    }
    let alerts: BTreeSet<String> =
        alerts().iter().map(|alert| text(&alert["alert"]).to_owned()).collect();
    assert_eq!(fires, alerts, "tests that expect it to fire");
    assert_eq!(is_silent, alerts, "tests that expect it to be silent");
}

/// Without it promtool takes the groups in another order each time, and a test at the minute where
/// something changes passes in one and fails in the next.
#[test]
fn the_order_of_the_groups_is_the_same_in_each_run() {
    let groups: Vec<String> = RULES
        .iter()
        .flat_map(|file| list(&load(file)["groups"]).to_vec())
        .map(|group| text(&group["name"]).to_owned())
        .collect();
    for file in RULE_TESTS {
        let order = load(file)["group_eval_order"].clone();
        let order: Vec<&str> = list(&order).iter().map(text).collect();
        assert_eq!(order, groups, "{file}");
    }
}

#[test]
fn promtool_accepts_the_rules_and_their_tests() {
    let Some(promtool) = promtool() else {
        let required =
            ["CI", "REQUIRE_PROMTOOL"].into_iter().any(|name| env::var_os(name).is_some());
        assert!(
            !required,
            "no promtool on PATH and no $PROMTOOL: apt-get install prometheus, or unset CI and \
             REQUIRE_PROMTOOL to skip the test"
        );
        // Not eprintln, which the harness keeps to itself while a test passes.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: no promtool on PATH and no $PROMTOOL; it is in Debian's prometheus"
        );
        return;
    };
    for (verb, files) in [("check", RULES), ("test", RULE_TESTS)] {
        let output = Command::new(&promtool)
            .args([verb, "rules"])
            .args(files)
            .current_dir(folder())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success(), "promtool {verb} rules: {said}");
    }
}

#[test]
fn the_dashboard_has_a_panel_for_each_question() {
    let dashboard = dashboard();
    let rows: Vec<&str> = panels(&dashboard)
        .filter(|panel| panel["type"] == "row")
        .map(|row| row["title"].as_str().unwrap())
        .collect();
    let questions = [
        "Is Redis full",
        "Who was refused",
        "Who holds the slots",
        "Dials and back-off",
        "Latency",
        "Leaks",
        "Fleet",
        "Sentinel",
        "Cluster",
        "redis_exporter",
    ];
    assert_eq!(rows, questions);
    // Whatever the crate emits can be seen.
    let shown: BTreeSet<String> = dashboard_exprs(&dashboard)
        .flat_map(|(_, expr)| selectors(&expr))
        .map(|found| found.name)
        .collect();
    let behind_a_record = [
        "redis_guard_rejections_total",
        "redis_guard_leaks_suspected_total",
        "redis_guard_leaks_resolved_total",
        "redis_guard_server_saturation_ratio",
    ];
    for name in documented().keys() {
        let is_shown = shown.contains(name) || behind_a_record.contains(&name.as_str());
        assert!(is_shown, "no panel shows {name}");
    }
}

#[test]
fn the_dashboard_is_one_that_grafana_imports() {
    const TYPES: [&str; 7] =
        ["row", "timeseries", "stat", "gauge", "bargauge", "table", "state-timeline"];
    let dashboard = dashboard();
    assert!(dashboard["schemaVersion"].as_u64() >= Some(39));
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeMap::new());
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        let kind = panel["type"].as_str().unwrap();
        assert!(TYPES.contains(&kind), "{title}: legacy or unknown type {kind}");
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: its id is not its own");
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(side("x") + side("w") <= 24, "{title}: wider than the grid");
        for (x, y) in (side("x")..side("x") + side("w"))
            .flat_map(|x| (side("y")..side("y") + side("h")).map(move |y| (x, y)))
        {
            let other = taken.insert((x, y), title);
            assert_eq!(other, None, "{title} lies over it");
        }
        if kind == "row" {
            continue;
        }
        assert!(panel["description"].as_str().is_some_and(|text| text.len() > 20), "{title}");
        assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}: no unit");
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title}");
        for source in iter::once(panel).chain(targets).map(|of| &of["datasource"]["uid"]) {
            assert_eq!(source, "${datasource}", "{title}");
        }
        for expr in targets.iter().map(|target| target["expr"].as_str().unwrap()) {
            let fixed = expr.contains("rate(") && !expr.contains("[$__rate_interval]");
            assert!(!fixed, "{title}: a rate over a window of its own");
        }
    }

    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let named = |name: &str| variables.iter().find(|variable| variable["name"] == name).unwrap();
    assert_eq!(named("datasource")["type"], "datasource");
    let before = [
        ("job", None),
        ("instance", Some("$job")),
        ("pool", Some("$instance")),
        ("server", Some("$pool")),
    ];
    for (name, chained) in before {
        let variable = named(name);
        assert_eq!((&variable["multi"], &variable["includeAll"]), (&true.into(), &true.into()));
        assert_eq!(variable["datasource"]["uid"], "${datasource}");
        let query = variable["query"]["query"].as_str().unwrap();
        assert!(query.starts_with("label_values("), "{query}");
        assert!(chained.is_none_or(|other| query.contains(other)), "{query}");
    }
}

#[test]
fn names_are_told_from_all_else_in_promql() {
    let expr = r#"sum by (job, le) (rate(a_total{x="b{c}", y!~'d|e'}[5m] offset 1h)) / on (job)
        group_left (f) g:h:i > bool 0.5e3 and (j unless k[24h:1h]) or vector(1) # l
        + histogram_quantile(0.9, m_bucket) * -inf"#;
    let found = selectors(expr);
    let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
    assert_eq!(names, ["a_total", "g:h:i", "j", "k", "m_bucket"]);
    let matchers = [("x", "b{c}"), ("y", "d|e")];
    assert_eq!(found[0].matchers, matchers.map(|(label, value)| (label.into(), value.into())));
}

// --- What there is.

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/observability")
}

/// The metrics of the guide's table, a histogram's as its series, with their labels. (That the table
/// is what the crate emits is a test beside the names in the crate.)
fn documented() -> BTreeMap<String, Vec<String>> {
    let guide = include_str!("../src/guide/operating.md");
    let rows = guide.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.trim_end_matches('`');
        let (kind, labels) = (cells.next()?, cells.next()?);
        let labels: Vec<String> = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Some((name, kind, labels))
    });
    let mut documented = BTreeMap::new();
    for (name, kind, mut labels) in rows {
        match kind {
            "gauge" | "counter" => drop(documented.insert(name.to_owned(), labels)),
            "histogram" => {
                for suffix in ["sum", "count"] {
                    documented.insert(format!("{name}_{suffix}"), labels.clone());
                }
                labels.push("le".to_owned());
                documented.insert(format!("{name}_bucket"), labels);
            }
            _ => {}
        }
    }
    assert!(documented.len() > 30, "the guide's table was not understood: {documented:?}");
    documented
}

/// Whether the label can have the value, as far as the crate says so.
fn is_given(name: &str, label: &str, value: &str) -> bool {
    let named_in = |source: &str| source.contains(&format!("\"{value}\""));
    match label {
        "state" if name == "redis_guard_breaker_state" => {
            BreakerState::ALL.iter().any(|state| state.as_str() == value)
        }
        "outcome" if name.contains("dials") => {
            Outcome::ALL.iter().any(|outcome| outcome.as_str() == value)
        }
        "outcome" if name.contains("retries") => named_in(include_str!("../src/tower/retry.rs")),
        "reason" if name.contains("closed") => named_in(include_str!("../src/telemetry/status.rs")),
        "reason" => named_in(include_str!("../src/vocabulary/rejection.rs")),
        "outcome" => named_in(include_str!("../src/telemetry/status.rs")),
        "error" => named_in(include_str!("../src/dial/notice.rs")),
        _ => true,
    }
}

fn load(file: &str) -> Yaml {
    let text = fs::read_to_string(folder().join(file)).unwrap();
    YamlLoader::load_from_str(&text).unwrap().remove(0)
}

fn list(yaml: &Yaml) -> &[Yaml] {
    yaml.as_vec().map_or(&[], Vec::as_slice)
}

#[track_caller]
fn text(yaml: &Yaml) -> &str {
    yaml.as_str().unwrap_or_else(|| panic!("not a string: {yaml:?}"))
}

fn rules() -> Vec<Yaml> {
    RULES
        .iter()
        .flat_map(|file| list(&load(file)["groups"]).to_vec())
        .flat_map(|group| list(&group["rules"]).to_vec())
        .collect()
}

fn alerts() -> Vec<Yaml> {
    rules().into_iter().filter(|rule| !rule["alert"].is_badvalue()).collect()
}

fn recorded() -> BTreeSet<String> {
    rules().iter().filter_map(|rule| Some(rule["record"].as_str()?.to_owned())).collect()
}

/// The runbooks and the README, each as one line.
fn pages() -> Vec<(String, String)> {
    let runbooks = fs::read_dir(folder().join("runbooks")).unwrap();
    runbooks
        .map(|entry| entry.unwrap().path())
        .chain([folder().join("README.md")])
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap().replace("```", "");
            let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
            (path.file_name().unwrap().display().to_string(), line)
        })
        .collect()
}

fn rule_tests() -> Vec<Yaml> {
    RULE_TESTS.iter().flat_map(|file| list(&load(file)["tests"]).to_vec()).collect()
}

fn dashboard() -> Value {
    let text = fs::read_to_string(folder().join("dashboard.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter()
}

/// What the dashboard asks, and where.
fn dashboard_exprs(dashboard: &Value) -> impl Iterator<Item = (String, String)> {
    let of_panels = panels(dashboard).flat_map(|panel| {
        let targets = panel["targets"].as_array().map_or(&[][..], Vec::as_slice);
        targets.iter().map(move |target| (&panel["title"], target["expr"].as_str().unwrap()))
    });
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let of_variables = variables.filter_map(|variable| {
        let query = variable["query"]["query"].as_str()?.strip_prefix("label_values(")?;
        Some((&variable["name"], query.rsplit_once(',').unwrap().0))
    });
    of_panels
        .chain(of_variables)
        .map(|(title, expr)| (format!("dashboard: {title}"), expr.to_owned()))
}

/// What rules and dashboard ask, and where.
fn all_exprs() -> Vec<(String, String)> {
    let of_rules = rules().into_iter().map(|rule| {
        let name = rule["record"].as_str().or(rule["alert"].as_str()).unwrap();
        (format!("rule {name}"), text(&rule["expr"]).to_owned())
    });
    of_rules.chain(dashboard_exprs(&dashboard())).collect()
}

fn promtool() -> Option<PathBuf> {
    let on_path = || {
        env::split_paths(&env::var_os("PATH")?)
            .map(|dir| dir.join("promtool"))
            .find(|p| p.is_file())
    };
    env::var_os("PROMTOOL").map(PathBuf::from).or_else(on_path)
}

// --- As much of PromQL as it takes to find the names in it.

/// A metric by its name, with the label matchers behind it.
#[derive(Debug, PartialEq)]
struct Selector {
    name: String,
    matchers: Vec<(String, String)>,
}

#[derive(Debug, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    Text(&'a str),
    Sign(char),
}

fn selectors(expr: &str) -> Vec<Selector> {
    let tokens = tokens(expr);
    let mut found: Vec<Selector> = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        let next = tokens.get(at);
        match token {
            Token::Word("by" | "without" | "on" | "ignoring" | "group_left" | "group_right") => {
                if next == Some(&Token::Sign('(')) {
                    at = past(&tokens, at, ')');
                }
            }
            Token::Word("and" | "or" | "unless" | "offset" | "bool" | "inf" | "nan") => {}
            Token::Word(number) if number.starts_with(|c: char| c.is_ascii_digit()) => {}
            // A function, or an aggregation.
            Token::Word(_)
                if matches!(next, Some(Token::Sign('(') | Token::Word("by" | "without"))) => {}
            Token::Word(name) => {
                let mut matchers = Vec::new();
                if next == Some(&Token::Sign('{')) {
                    let end = past(&tokens, at, '}');
                    let mut label = None;
                    for token in &tokens[at..end] {
                        match token {
                            Token::Word(word) => label = Some((*word).to_owned()),
                            Token::Text(value) => {
                                let label = label.take().expect("a label stands before its value");
                                matchers.push((label, (*value).to_owned()));
                            }
                            Token::Sign(_) => {}
                        }
                    }
                    at = end;
                }
                found.push(Selector { name: (*name).to_owned(), matchers });
            }
            Token::Sign('[') => at = past(&tokens, at, ']'),
            Token::Sign('{') => panic!("a selector without a name: {expr}"),
            Token::Sign(_) | Token::Text(_) => {}
        }
    }
    found
}

fn past(tokens: &[Token<'_>], from: usize, sign: char) -> usize {
    let end = tokens[from..].iter().position(|token| *token == Token::Sign(sign));
    from + end.expect("brackets are closed") + 1
}

fn tokens(expr: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = expr.trim_start();
    while let Some(first) = rest.chars().next() {
        let inner = &rest[first.len_utf8()..];
        rest = match first {
            '#' => inner.split_once('\n').map_or("", |(_, after)| after),
            '"' | '\'' | '`' => {
                // None of ours has a quote within quotes.
                let (text, after) = inner.split_once(first).expect("quotes are closed");
                tokens.push(Token::Text(text));
                after
            }
            _ if is_of_word(first) => {
                let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
                tokens.push(Token::Word(&rest[..end]));
                &rest[end..]
            }
            _ => {
                tokens.push(Token::Sign(first));
                inner
            }
        }
        .trim_start();
    }
    tokens
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || ['_', ':', '.', '$'].contains(&c)
}
