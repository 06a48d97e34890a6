//! The routes for operators and orchestrators.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::http::{Method, StatusCode};
use redis_guard::axum::{StatusRoutes, status_routes};
use redis_guard::{BreakerState, Budget, GuardedPool};

use crate::support::TestServer;
use crate::waiting::until;
use crate::{Answer, builder, cold, get, send, send_with};

fn app(routes: StatusRoutes) -> Router {
    Router::new().merge(routes)
}

fn absent() -> GuardedPool {
    GuardedPool::builder("redis://127.0.0.1:1").build().unwrap()
}

#[tokio::test]
async fn status_is_the_pools_snapshot() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).endpoint("a", Budget::max(3).reserve(1)).build().unwrap();
    let _held = pool.acquire("a").await.unwrap();

    let mut page = get(&app(status_routes(pool.clone())), "/status").await.json();

    let mut snapshot = serde_json::to_value(pool.status()).unwrap();
    for beside in ["events", "history"] {
        assert!(page.as_object_mut().unwrap().remove(beside).is_some(), "{beside}");
    }
    for status in [&mut page, &mut snapshot] {
        // Time went on.
        status["breaker"]["next_dial_in_seconds"].take();
    }
    assert_eq!(page, snapshot);
}

#[tokio::test]
async fn status_has_the_recent_events_with_their_time() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    let seconds = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let before = seconds();
    pool.warm_up(1).await.unwrap();
    pool.breaker().force_open();

    let page = get(&app(status_routes(pool)), "/status").await.json();

    let events = page["events"].as_array().unwrap();
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["connected", "breaker_changed"]);
    assert_eq!((&events[0]["live"], &events[1]["to"]), (&1.into(), &"open".into()));
    let at = events[0]["at"].as_f64().unwrap();
    assert!((before..=seconds()).contains(&at), "{at}");
}

/// For whoever opens the page when it is over.
#[tokio::test]
async fn status_has_what_was_refused_and_dialed_in_the_last_minutes() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = cold(&server).await;
    for _ in 0..7 {
        pool.acquire("a").await.unwrap_err();
    }
    let refused = || {
        let endpoints = pool.status().endpoints;
        endpoints.iter().flat_map(|endpoint| endpoint.rejected.values()).sum::<u64>()
    };
    let kept = || pool.recent_rates().iter().map(|rate| rate.refused).sum::<u64>();
    until("its history", &pool, || kept() > 0).await;

    let page = get(&app(status_routes(pool.clone())), "/status").await.json();

    let column = |name: &str| page["history"][name].as_array().unwrap().clone();
    let sum = |name: &str| column(name).iter().map(|it| it.as_u64().unwrap()).sum::<u64>();
    assert!((7..=refused()).contains(&sum("refused")), "{page:#}");
    let rows = column("age_seconds").len();
    assert!((1..=320).contains(&rows), "{page:#}");
    for name in ["seconds", "refused", "dials"] {
        assert_eq!(column(name).len(), rows, "{name}");
    }
}

/// What Chromium sends when somebody types an address.
const BROWSER: [(&str, &str); 1] = [(
    "accept",
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
)];

async fn browse(app: &Router, path: &str) -> Answer {
    send_with(app, Method::GET, path, &BROWSER).await
}

#[tokio::test]
async fn a_browser_gets_a_page_and_everybody_else_json_from_the_same_address() {
    let app = app(status_routes(absent()));
    for (accept, kind) in [
        (Some(BROWSER[0].1), "text/html; charset=utf-8"),
        (Some("application/json"), "application/json"),
        (Some("*/*"), "application/json"),
        (None, "application/json"),
    ] {
        let headers: Vec<_> = accept.map(|accept| ("accept", accept)).into_iter().collect();
        let answer = send_with(&app, Method::GET, "/status", &headers).await;
        assert_eq!(answer.status, StatusCode::OK, "{accept:?}");
        assert_eq!(answer.header("content-type"), Some(kind), "{accept:?}");
        // No cache may give one who asked for the other what it has, and nothing is true for long.
        assert_eq!(answer.header("vary"), Some("accept"), "{accept:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{accept:?}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{accept:?}");
    }
    let json = browse(&app, "/status?format=json").await;
    assert_eq!(json.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn head_is_get_without_its_body() {
    let app = app(status_routes(absent()));
    for headers in [&BROWSER[..], &[]] {
        let head = send_with(&app, Method::HEAD, "/status", headers).await;
        let get = send_with(&app, Method::GET, "/status", headers).await;
        assert_eq!((head.status, head.body.as_str()), (StatusCode::OK, ""));
        assert_eq!(head.header("content-type"), get.header("content-type"));
        let length = get.body.len().to_string();
        // The JSON has a clock in it.
        assert!(headers.is_empty() || head.header("content-length") == Some(&length), "{head:?}");
    }
}

#[tokio::test]
async fn the_page_runs_its_own_script_and_style_and_nothing_else() {
    let page = browse(&app(status_routes(absent())), "/status").await;

    let policy: Vec<_> = page.header("content-security-policy").unwrap().split("; ").collect();
    for (directive, start, end) in [
        ("style-src", "<style>", "</style>"),
        ("script-src", "<script type=\"module\">", "</script>"),
    ] {
        let [_, rest] = page.body.split(start).collect::<Vec<_>>()[..] else {
            panic!("not one {start}")
        };
        let hash =
            ring::digest::digest(&ring::digest::SHA256, rest.split(end).next().unwrap().as_bytes());
        let wanted = format!("{directive} 'sha256-{}'", base64(hash.as_ref()));
        assert!(
            policy.contains(&wanted.as_str()),
            "status_page.rs has to say {wanted}, not {policy:#?}"
        );
    }
    for directive in [
        "default-src 'none'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(policy.contains(&directive), "{directive}: {policy:#?}");
    }
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    // Nothing is fetched from anywhere, nor by an address that depends on where the page is.
    for outside in ["http://", "https://", "src=", "url(", "@import", "href=\"/"] {
        assert!(!page.body.contains(outside), "{outside}");
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = bytes.chunks(3).map(|group| {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte))
            << (8 * (3 - group.len()));
        let digits = (0..4).map(|n| char::from(DIGITS[bits >> (18 - 6 * n) & 63]));
        format!("{:=<4}", digits.take(group.len() + 1).collect::<String>())
    });
    groups.collect()
}

#[tokio::test]
async fn the_page_is_where_the_json_is_however_deep() {
    let routes = || status_routes(absent());
    for (app, path) in [
        (Router::new().nest("/redis", routes().into()), "/redis/status"),
        (Router::new().nest("/redis/", routes().into()), "/redis/status"),
        (Router::new().nest("/a/{pool}/b", routes().into()), "/a/1/b/status"),
        (Router::new().nest_service("/redis", Router::<()>::from(routes())), "/redis/status"),
    ] {
        assert!(browse(&app, path).await.body.starts_with("<!doctype html>"), "{path}");
        assert_eq!(get(&app, path).await.json()["live"], 0, "{path}");
    }
}

#[tokio::test]
async fn a_router_keeps_what_it_has_at_its_root() {
    let root = || Router::new().route("/", axum::routing::get(async || "mine"));
    let merged = root().merge(status_routes(absent()));
    let nested = root().nest("/redis", status_routes(absent()).into());

    for app in [merged, nested] {
        assert_eq!(browse(&app, "/").await.body, "mine");
    }
}

#[tokio::test]
async fn only_with_overrides_does_the_page_have_their_buttons() {
    let without = browse(&app(status_routes(absent())), "/status").await.body;
    let with = browse(&app(status_routes(absent()).overrides()), "/status").await.body;

    assert!(!without.contains("<html lang=\"en\" data-overrides>"));
    assert!(with.contains("<html lang=\"en\" data-overrides>"));
}

#[tokio::test]
async fn a_pool_that_has_not_been_asked_for_anything_is_ready() {
    let answer = get(&app(status_routes(absent())), "/readyz").await;

    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, r#"{"status":"ready"}"#));
}

#[tokio::test]
async fn while_nobody_can_be_served_it_is_ready_but_degraded_and_says_why() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = cold(&server).await;

    let answer = get(&app(status_routes(pool)), "/readyz").await;

    assert_eq!(answer.status, StatusCode::OK);
    let page = answer.json();
    assert_eq!((&page["status"], &page["reason"]), (&"degraded".into(), &"breaker_open".into()));
    assert!(page["detail"].as_str().unwrap().contains("max number of clients"), "{page}");
}

#[tokio::test]
async fn degraded_is_503_where_redis_is_required() {
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = cold(&server).await;

    let answer = get(&app(status_routes(pool).require_redis()), "/readyz").await;

    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["status"], "degraded");
}

#[tokio::test]
async fn where_redis_is_required_being_asked_is_enough_to_become_ready() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    let app = app(status_routes(pool.clone()).require_redis());

    let first = get(&app, "/readyz").await;
    assert_eq!(first.json()["reason"], "not_connected");
    assert_eq!(first.status, StatusCode::SERVICE_UNAVAILABLE);

    // Nobody but the probe asked.
    until("a connection", &pool, || pool.status().live == 1).await;
    assert_eq!(get(&app, "/readyz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn with_a_live_connection_it_is_ready_though_the_breaker_is_open() {
    let server = TestServer::start().unwrap();
    let pool = builder(&server).build().unwrap();
    pool.warm_up(1).await.unwrap();
    pool.breaker().force_open();

    let answer = get(&app(status_routes(pool).require_redis()), "/readyz").await;

    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, r#"{"status":"ready"}"#));
}

#[tokio::test]
async fn a_closed_pool_is_never_ready() {
    let pool = absent();
    pool.close().await;

    let answer = get(&app(status_routes(pool)), "/readyz").await;

    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["status"], "closed");
}

#[tokio::test]
async fn without_overrides_there_is_nothing_to_force() {
    let pool = absent();
    let app = app(status_routes(pool.clone()));

    for path in ["/breaker/open", "/breaker/closed", "/breaker/auto"] {
        assert_eq!(send(&app, Method::POST, path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(pool.breaker().state(), BreakerState::Closed);
}

#[tokio::test]
async fn overrides_force_the_breaker_and_take_that_back() {
    let pool = absent();
    let app = app(status_routes(pool.clone()).overrides());
    for (path, state, forced) in [
        ("/breaker/open", "open", true),
        ("/breaker/closed", "closed", true),
        ("/breaker/auto", "closed", false),
    ] {
        let answer = send(&app, Method::POST, path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert_eq!(answer.json()["state"], state, "{path}");
        assert_eq!(answer.json()["forced"], forced, "{path}");
    }
}

#[tokio::test]
async fn an_override_is_not_to_be_had_by_following_a_link() {
    let app = app(status_routes(absent()).overrides());

    assert_eq!(get(&app, "/breaker/open").await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn an_override_that_a_page_of_another_origin_sends_is_refused() {
    let pool = absent();
    let merged = app(status_routes(pool.clone()).overrides());
    let nested = Router::new().nest("/redis", status_routes(pool.clone()).overrides().into());
    for headers in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site"), ("host", "a.example"), ("origin", "https://b.example")],
        &[("host", "10.0.0.1:8081"), ("origin", "http://evil.example")],
        &[("host", "10.0.0.1:8081"), ("origin", "null")],
    ] {
        for (app, path) in [(&merged, "/breaker/open"), (&nested, "/redis/breaker/open")] {
            let answer = send_with(app, Method::POST, path, headers).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{headers:?}");
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            assert_eq!(
                (&answer.json()["status"], &answer.json()["title"]),
                (&403.into(), &"Forbidden".into())
            );
        }
    }
    assert!(!pool.status().breaker.forced);
}

#[tokio::test]
async fn the_page_and_a_script_may_override() {
    let pool = absent();
    let app = app(status_routes(pool.clone()).overrides());
    for headers in [
        &[][..],
        &[("sec-fetch-site", "same-origin"), ("host", "inside"), ("origin", "https://outside")],
        &[("host", "10.0.0.1:8081"), ("origin", "http://10.0.0.1:8081")],
    ] {
        pool.breaker().auto();
        let answer = send_with(&app, Method::POST, "/breaker/open", headers).await;
        assert_eq!(answer.status, StatusCode::OK, "{headers:?}");
        assert!(pool.status().breaker.forced, "{headers:?}");
    }
}

#[tokio::test]
async fn each_pool_of_a_process_can_have_its_own_prefix() {
    let named =
        |name: &str| GuardedPool::builder("redis://127.0.0.1:1").name(name).build().unwrap();
    let app: Router = Router::new()
        .nest("/a", status_routes(named("first")).into())
        .nest("/b", status_routes(named("second")).into());

    assert_eq!(get(&app, "/a/status").await.json()["pool"], "first");
    assert_eq!(get(&app, "/b/status").await.json()["pool"], "second");
}
