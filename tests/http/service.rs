//! The example service, a process of its own, while its Redis fills up.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::client::{Client, Load, Seen};
use crate::example::{NAME, Service, program, squeeze};
use crate::support::TestServer;
use crate::waiting::soon;

const SESSIONS: &str = "/session/{id}";
const CLIENTS: usize = 256;
/// Status, and whether there was a `Retry-After`.
const SERVED: (u16, bool) = (200, false);
const SHED: (u16, bool) = (503, true);
/// Answers for each route in each phase: a little over a second of the load.
const ANSWERS: usize = 1_500;
/// A fifth of the time for which the service lets a caller wait for a connection.
const AT_ONCE: Duration = Duration::from_millis(50);

impl Service {
    /// Requests of the sessions' route that ended so.
    async fn sessions(&self, outcome: &str) -> u64 {
        let status = self.status().await;
        let mut endpoints = status["endpoints"].as_array().unwrap().iter();
        let sessions = endpoints.find(|endpoint| endpoint["name"] == SESSIONS).unwrap();
        sessions["requests"][outcome].as_u64().unwrap_or(0)
    }

    /// How many requests of the limiter were refused, and how many of them within [`AT_ONCE`], by the
    /// service's own clock: with 256 clients and Redis on two cores, theirs would mostly tell how long
    /// they wait for a core.
    async fn sheds(&self) -> (f64, f64) {
        let page = Client::connect(self.operators).await.get("/metrics").await.body;
        let histogram = "http_server_request_duration_seconds";
        let labels = r#"{route="/limited",status="503""#;
        let value = |line: String| {
            let line = page.lines().find_map(|l| l.strip_prefix(&line));
            line.map_or(0.0, |value| value.trim().parse().unwrap())
        };
        let le = AT_ONCE.as_secs_f64();
        (
            value(format!("{histogram}_count{labels}}}")),
            value(format!("{histogram}_bucket{labels},le=\"{le}\"}}")),
        )
    }
}

/// The service has four connections, and knows that there are no more: it was refused one, or its watch
/// saw that none is left, whichever came first. The watch may then give some back.
async fn learn_the_limit(service: &Service) {
    service
        .until("four connections at most, and no more to be had", |status| {
            status["live"].as_u64() <= Some(4) && status["limit"].as_u64() <= Some(4)
        })
        .await;
}

fn only(seen: &Seen, wanted: (u16, bool)) -> bool {
    seen.keys().all(|kind| *kind == wanted)
}

/// Some are served, and those who are not hear so as they should.
fn serves(seen: &Seen) -> bool {
    seen.contains_key(&SERVED) && seen.keys().all(|kind| [SERVED, SHED].contains(kind))
}

fn sheds(seen: &Seen) -> bool {
    seen.contains_key(&SHED) && seen.keys().all(|kind| [SERVED, SHED].contains(kind))
}

/// How much later than a 404 of the same service a refusal arrives at a single client. The difference,
/// because both wait for a core while the machine has other things to do.
async fn lag(service: &Service) -> Duration {
    let mut client = Client::connect(service.clients).await;
    let (mut controls, mut sheds) = (Vec::new(), Vec::new());
    while sheds.len() < 100 {
        controls.push(client.get("/nowhere").await.took);
        let answer = client.get("/limited").await;
        if answer.status == SHED.0 {
            sheds.push(answer.took);
        }
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    median(&mut sheds).saturating_sub(median(&mut controls))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_full_sessions_go_on_and_the_limiter_sheds_until_there_is_room() {
    let server = TestServer::builder().maxclients(32).start().unwrap();
    let mut service = Service::start(&server.url());
    let mut client = Client::connect(service.clients).await;
    let session = |n: usize| format!("/session/{n}");
    for n in 0..CLIENTS / 2 {
        assert_eq!(client.request("PUT", &session(n), "somebody").await.status, 204);
    }
    let limited = |n: usize| format!("/limited?{n}");
    let paths = (0..CLIENTS / 2).flat_map(|n| [session(n), limited(n)]);
    let mut load = Load::start(service.clients, paths).await;

    let [limiter, sessions] = load.phase(ANSWERS).await;
    assert!(only(&sessions, SERVED), "with room: {sessions:?}");
    assert!(serves(&limiter), "with room: {limiter:?}");

    // Somebody else takes every slot; of four connections three are kept for sessions.
    let occupants = server.fill();
    squeeze(&server, 4);
    learn_the_limit(&service).await;
    let before = service.sessions("served").await;
    let [limiter, sessions] = load.phase(ANSWERS).await;
    assert!(only(&sessions, SERVED), "full: {sessions:?}");
    assert!(sheds(&limiter), "full: {limiter:?}");
    let fresh = service.sessions("served").await - before;
    assert!(fresh >= u64::try_from(ANSWERS).unwrap() / 2, "{fresh} came from Redis");
    let lag_when_full = soon("a hundred refusals", lag(&service)).await;

    // Nothing is left.
    squeeze(&server, 0);
    service.until("an open breaker", |s| s["live"] == 0 && s["breaker"]["state"] == "open").await;
    let before = service.sessions("fallback").await;
    let [limiter, sessions] = load.phase(ANSWERS).await;
    assert!(only(&sessions, SERVED), "nothing live: {sessions:?}");
    assert!(only(&limiter, SHED), "nothing live: {limiter:?}");
    let stale = service.sessions("fallback").await - before;
    assert!(stale >= u64::try_from(ANSWERS).unwrap(), "{stale} were answered without Redis");
    let lag_with_nothing_live = soon("a hundred refusals", lag(&service)).await;
    let unknown = client.get("/session/never-seen").await;
    assert_eq!((unknown.status, unknown.retry_after.is_some()), (503, true));

    // It comes back by itself.
    server.admin().set_maxclients(32);
    occupants.free();
    service.until("connections", |status| status["live"].as_u64() >= Some(4)).await;
    let [limiter, sessions] = load.phase(ANSWERS).await;
    assert!(only(&sessions, SERVED), "room again: {sessions:?}");
    assert!(serves(&limiter), "room again: {limiter:?}");

    let (sheds, at_once) = service.sheds().await;
    assert!(at_once >= 0.98 * sheds, "{at_once} of {sheds} within {AT_ONCE:?}");
    let lags = [lag_when_full, lag_with_nothing_live];
    assert!(lags.iter().all(|lag| *lag <= AT_ONCE), "{lags:?}");
    drop(load);
    service.signal("TERM");
    assert!(service.end().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_leases_share_all_goes_on_over_one_connection_while_redis_is_full() {
    let server = TestServer::builder().maxclients(32).start().unwrap();
    let service = Service::start_sharing(&server.url());
    let mut client = Client::connect(service.clients).await;
    let paths = (0..CLIENTS / 2).flat_map(|n| [format!("/session/{n}"), format!("/limited?{n}")]);
    for n in 0..CLIENTS / 2 {
        let put = client.request("PUT", &format!("/session/{n}"), "somebody").await;
        assert_eq!(put.status, 204);
    }
    let mut load = Load::start(service.clients, paths).await;
    let occupants = server.fill();

    let before = service.sessions("served").await;
    let [limiter, sessions] = load.phase(ANSWERS).await;
    assert!(only(&sessions, SERVED) && only(&limiter, SERVED), "full: {sessions:?}, {limiter:?}");
    let fresh = service.sessions("served").await - before;
    assert!(fresh >= u64::try_from(ANSWERS).unwrap(), "{fresh} came from Redis");
    assert_eq!(server.admin().clients_named(NAME), 1);

    // Nothing is left.
    squeeze(&server, 0);
    service.until("an open breaker", |s| s["live"] == 0 && s["breaker"]["state"] == "open").await;
    let [limiter, sessions] = load.phase(ANSWERS).await;
    assert!(only(&sessions, SERVED), "nothing live: {sessions:?}");
    assert!(only(&limiter, SHED), "nothing live: {limiter:?}");

    // It comes back by itself.
    server.admin().set_maxclients(32);
    occupants.free();
    service.until("a connection", |status| status["live"].as_u64() >= Some(1)).await;
    let [limiter, sessions] = load.phase(ANSWERS).await;
    assert!(only(&sessions, SERVED) && serves(&limiter), "again: {sessions:?}, {limiter:?}");
}

#[tokio::test]
async fn sigterm_lets_requests_end_and_closes_every_connection() {
    let server = TestServer::start().unwrap();
    let mut service = Service::start(&server.url());
    let mut client = Client::connect(service.clients).await;
    client.request("PUT", "/session/1", "somebody").await;
    server.pause();
    client.send("GET", "/session/1", "").await;
    service.until("the request in Redis", |status| status["in_use"] == 1).await;

    service.signal("TERM");
    let refused = async { while TcpStream::connect(service.clients).await.is_ok() {} };
    soon("no new clients", refused).await;
    server.resume();

    let (status, _, body) = client.receive("the request").await;
    assert_eq!((status, body.as_str()), (200, "somebody"));
    assert!(service.end().await.success());
    // The server hears of a closed socket a moment later.
    let closed = async {
        while server.admin().clients_named(NAME) > 0 {
            tokio::task::yield_now().await;
        }
    };
    soon("no connection left", closed).await;
}

#[tokio::test]
async fn it_starts_without_redis_and_its_metrics_tell_what_it_sheds() {
    let service = Service::start_sharing("redis://127.0.0.1:1");
    let mut client = Client::connect(service.clients).await;
    for _ in 0..3 {
        let answer = client.get("/session/1").await;
        assert_eq!((answer.status, answer.retry_after.is_some()), SHED);
    }

    let line = format!(
        r#"redis_guard_requests_total{{pool="service",endpoint="{SESSIONS}",outcome="shed"}} 3"#
    );
    let published = async {
        let mut operator = Client::connect(service.operators).await;
        while !operator.get("/metrics").await.body.contains(&line) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    soon(&line, published).await;
}

#[test]
fn a_flag_that_is_not_understood_is_named() {
    for (args, problem) in [
        (vec!["--port", "1"], r#"unknown argument "--port""#),
        (vec!["--listen"], "--listen needs a value"),
        (vec!["--listen", "here"], "--listen here: invalid socket address"),
        (vec!["--redis", "http://here"], "the URL is not usable"),
    ] {
        let output = Command::new(program()).args(&args).output().unwrap();
        let words = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && words.contains(problem), "{args:?}: {words}");
    }
}

/// Who starts it reads where it serves from stdout, and nothing else.
#[test]
fn what_happens_to_its_pool_goes_to_stderr() {
    let mut process = Command::new(program())
        .args([
            "--redis",
            "redis://127.0.0.1:1",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(process.stdout.take().unwrap());
    let mut said = String::new();
    for _ in 0..2 {
        stdout.read_line(&mut said).unwrap();
    }
    let kill = format!("kill -TERM {}", process.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    stdout.read_to_string(&mut said).unwrap();
    let output = process.wait_with_output().unwrap();

    let logged = String::from_utf8(output.stderr).unwrap();
    assert!(logged.contains("dial failed pool=service server=127.0.0.1:1"), "{logged}");
    assert!(!logged.contains('\u{1b}'), "no terminal: {logged}");
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        matches!(lines[..], [clients, operators, "drained"]
        if clients.starts_with("serving clients on") && operators.starts_with("serving operators on")),
        "{said}"
    );
}
