//! A small real service over one guarded pool: session lookup and a rate limiter, the seeds of most
//! Redis outages.
//!
//! ```sh
//! cargo run --example axum_service --features axum -- --redis redis://127.0.0.1:6379
//! ```
//!
//! Its commands are short, so its leases share one connection (`multiplex`). With `--exclusive` each has its own,
//! as in other pools, and budgets say whose the last ones are:
//!
//! | route | while Redis is full | with `--exclusive` |
//! |---|---|---|
//! | `GET /session/{id}` | goes on over the one connection. Without it, it answers with what it saw last | goes on: 4 connections are kept for it |
//! | `PUT /session/{id}` | goes on over the one connection; without it 503 | goes on while one of the 4 lives; then 503 |
//! | `GET /limited` | the same: what cannot be counted is not let through | takes turns on the one connection that is kept for nobody; 503 at once for the rest |
//!
//! What happens to the pool goes to stderr, a line each. On the private listener: `/metrics`, `/status` (a page, for a browser), `/readyz`, `/doctor`
//! with the feature `doctor`,
//! `POST /breaker/{open,closed,auto}`.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::{MatchedPath, Path, Request, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use redis_guard::axum::{Fallback, Redis, RedisLayer, status_routes};
use redis_guard::{AsyncCommands, Backoff, Budget, Error, GuardedPool};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, interval, sleep};

const HELP: &str = "\
usage: axum_service [--redis URL] [--listen ADDR] [--admin ADDR] [--exclusive]

  --redis URL     the server (default redis://127.0.0.1:6379)
  --listen ADDR   where to serve clients (default 127.0.0.1:8080; port 0 takes a free one)
  --admin ADDR    where to serve operators: not for the public (default 127.0.0.1:8081)
  --exclusive     a connection of its own for each lease, instead of one that they share
";

/// Connections that only sessions may use, where leases have their own.
const KEPT_FOR_SESSIONS: usize = 4;
/// Requests a minute for each client of `/limited`.
const QUOTA: u64 = 600;
/// How long requests may go on after SIGTERM: together with the pool's drain timeout, inside the 30 s
/// that Kubernetes leaves.
const DRAIN: Duration = Duration::from_secs(10);
/// Without them the exporter makes summaries, which cannot be added up over instances.
const BUCKETS: [f64; 11] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

#[tokio::main]
async fn main() -> ExitCode {
    let args = match Args::parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprint!("axum_service: {problem}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    // What happens to the pool: its limit, the breaker, refused callers. To stderr, as stdout is for who started it.
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("axum_service: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn StdError>> {
    // Of leases that share, one connection carries all, and is kept for nobody.
    let (kept, open) = if args.exclusive { (KEPT_FOR_SESSIONS, KEPT_FOR_SESSIONS) } else { (0, 1) };
    let pool = GuardedPool::builder(args.redis)
        .name("service")
        .max_connections(8)
        .multiplex(!args.exclusive)
        .endpoint("/session/{id}", Budget::max(8).reserve(kept))
        .endpoint("/limited", Budget::max(2))
        .acquire_timeout(Duration::from_millis(250))
        .backoff(Backoff::equal_jitter(Duration::from_millis(50), Duration::from_secs(1)))
        .min_idle(open)
        .build()?;
    let metrics = PrometheusBuilder::new().set_buckets(&BUCKETS)?.install_recorder()?;
    tokio::spawn(upkeep(metrics.clone()));

    let listener = bind(args.listen).await?;
    let admin_listener = bind(args.admin).await?;
    let admin_address = admin_listener.local_addr()?;
    let status = status_routes(pool.clone()).overrides();
    #[cfg(feature = "doctor")]
    let status = status.doctor();
    let admin = Router::new().merge(status).route("/metrics", get(async move || metrics.render()));
    // Until the very end: whoever watches wants to see the drain.
    tokio::spawn(axum::serve(admin_listener, admin).into_future());

    // Before the first request needs it. Redis may be away: the pool will find it when it comes back.
    if let Err(error) = pool.warm_up(open).await {
        eprintln!("axum_service: starting without Redis: {error}");
    }
    let draining = Arc::new(Notify::new());
    // Heard from before anybody knows that it serves.
    let terminated = terminated(Arc::clone(&draining))?;
    println!("serving clients on {}", listener.local_addr()?);
    println!("serving operators on {admin_address}");

    let serving = axum::serve(listener, service(pool.clone())).with_graceful_shutdown(terminated);
    tokio::select! {
        ended = serving.into_future() => ended?,
        () = async { draining.notified().await; sleep(DRAIN).await } => {
            eprintln!("axum_service: some requests did not end within {DRAIN:?}");
        }
    }
    pool.close().await;
    println!("drained");
    Ok(())
}

fn service(pool: GuardedPool) -> Router {
    let redis = RedisLayer::new(pool);
    // Without Redis the limiter cannot do anything. Sessions can: they have what they saw last.
    let limiter =
        Router::new().route("/limited", get(limited)).layer(redis.clone().shed_when_open());
    Router::new()
        .route("/session/{id}", get(read_session).put(write_session))
        .layer(redis)
        .merge(limiter)
        .layer(from_fn(timed))
        .with_state(Arc::new(LastSeen::default()))
}

async fn read_session(
    State(last_seen): State<Arc<LastSeen>>,
    Path(id): Path<String>,
    redis: Redis,
) -> Result<Response, Error> {
    let found: Result<Option<String>, Error> =
        async { Ok(redis.acquire().await?.get(session_key(&id)).await?) }.await;
    match found {
        Ok(session) => {
            last_seen.note(id, session.clone());
            Ok(session.ok_or(StatusCode::NOT_FOUND).into_response())
        }
        Err(error) => match last_seen.find(&id) {
            Some(session) => Ok(Fallback(session).into_response()),
            None => Err(error),
        },
    }
}

async fn write_session(
    State(last_seen): State<Arc<LastSeen>>,
    Path(id): Path<String>,
    redis: Redis,
    session: String,
) -> Result<StatusCode, Error> {
    let mut conn = redis.acquire().await?;
    conn.set_ex::<_, _, ()>(session_key(&id), &session, 3_600).await?;
    last_seen.note(id, Some(session));
    Ok(StatusCode::NO_CONTENT)
}

fn session_key(id: &str) -> String {
    format!("session:{id}")
}

/// Counts the client's requests in a window of a minute.
async fn limited(redis: Redis, headers: HeaderMap) -> Result<Response, Error> {
    let client = headers.get("x-api-key").and_then(|key| key.to_str().ok()).unwrap_or("nobody");
    let seconds = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    let key = format!("quota:{client}:{}", seconds / 60);
    // No waiting: a limiter is in front of other work, and must not become its queue.
    let mut conn = redis.try_acquire()?;
    let mut count = redis_guard::redis::pipe();
    count.atomic().incr(&key, 1).expire(&key, 60).ignore();
    let (used,): (u64,) = count.query_async(&mut conn).await?;
    if used > QUOTA {
        let wait = (60 - seconds % 60).to_string();
        return Ok((StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, wait)]).into_response());
    }
    Ok(format!("{} left\n", QUOTA - used).into_response())
}

/// The sessions that were read or written last, to answer with while Redis cannot be asked.
#[derive(Default)]
struct LastSeen(Mutex<HashMap<String, String>>);

impl LastSeen {
    const MOST: usize = 10_000;

    fn note(&self, id: String, session: Option<String>) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= Self::MOST {
            // A small service: it starts anew rather than to look for the oldest.
            seen.clear();
        }
        match session {
            Some(session) => seen.insert(id, session),
            None => seen.remove(&id),
        };
    }

    fn find(&self, id: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }
}

async fn timed(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let started = Instant::now();
    let response = next.run(request).await;
    let labels = [
        ("route", route.map_or_else(|| "other".to_owned(), |route| route.as_str().to_owned())),
        ("status", response.status().as_str().to_owned()),
    ];
    metrics::histogram!("http_server_request_duration_seconds", &labels).record(started.elapsed());
    response
}

/// Without it the exporter's histograms grow until somebody scrapes.
async fn upkeep(metrics: PrometheusHandle) {
    let mut ticks = interval(Duration::from_secs(5));
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

/// Ends with SIGTERM or SIGINT.
fn terminated(draining: Arc<Notify>) -> std::io::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        draining.notify_one();
    })
}

async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address}: {error}"))
}

struct Args {
    redis: String,
    listen: SocketAddr,
    admin: SocketAddr,
    exclusive: bool,
}

impl Args {
    /// `None` where help was asked for.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut args = Self {
            redis: "redis://127.0.0.1:6379".to_owned(),
            listen: ([127, 0, 0, 1], 8080).into(),
            admin: ([127, 0, 0, 1], 8081).into(),
            exclusive: false,
        };
        while let Some(flag) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{flag} needs a value"));
            let address = |text: String| {
                text.parse()
                    .map_err(|error| format!("{flag} {text}: {error} (like 127.0.0.1:8080)"))
            };
            match flag.as_str() {
                "--redis" => args.redis = value()?,
                "--listen" => args.listen = address(value()?)?,
                "--admin" => args.admin = address(value()?)?,
                "--exclusive" => args.exclusive = true,
                "--help" | "-h" => return Ok(None),
                _ => return Err(format!("unknown argument {flag:?}")),
            }
        }
        Ok(Some(args))
    }
}
