//! `GET /doctor`: who holds the slots, asked over a connection that is open already.

use axum::Router;
use axum::http::{Method, StatusCode};
use redis_guard::GuardedPool;
use redis_guard::axum::status_routes;

use crate::support::{Occupants, TestServer};
use crate::waiting::until;
use crate::{builder, get, send_with};

fn app(pool: GuardedPool) -> Router {
    Router::new().merge(status_routes(pool).doctor())
}

#[tokio::test]
async fn a_full_server_is_examined_over_the_pools_own_connection() {
    let server = TestServer::builder().maxclients(24).start().unwrap();
    let pool = builder(&server).watch(false).build().unwrap();
    pool.warm_up(1).await.unwrap();
    let occupants = server.fill();
    let received = server.admin().info_u64("total_connections_received");
    let refused = server.admin().info_u64("rejected_connections");

    let report = get(&app(pool), "/doctor").await.json();

    let seen = &report["servers"][0];
    assert_eq!(seen["capacity"]["used"], 24, "{seen}");
    assert_eq!(seen["capacity"]["free"], 0, "{seen}");
    assert_eq!(seen["verdict"]["kind"], "unused", "{seen}");
    // The occupants, the pool's connection and the test's own.
    assert_eq!(seen["holders"]["clients"], 24, "{seen}");
    assert_eq!(occupants.len(), 22);
    assert_eq!(report["exit_code"], 2);
    assert_eq!(server.admin().info_u64("total_connections_received"), received, "no dial");
    assert_eq!(server.admin().info_u64("rejected_connections"), refused);
}

#[tokio::test]
async fn a_browser_gets_it_as_text() {
    let server = TestServer::start().unwrap();
    let app = app(builder(&server).build().unwrap());
    let answer =
        send_with(&app, Method::GET, "/doctor", &[("accept", "text/html,*/*;q=0.8")]).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    assert!(answer.body.contains("nothing wrong: "), "{}", answer.body);
    for (path, accept) in [("/doctor", "text/plain"), ("/doctor?format=text", "*/*")] {
        let answer = send_with(&app, Method::GET, path, &[("accept", accept)]).await;
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"), "{path}");
    }
}

#[tokio::test]
async fn with_nothing_live_it_is_503_and_tells_why() {
    let pool = GuardedPool::builder("redis://127.0.0.1:1").build().unwrap();
    let answer = get(&app(pool), "/doctor").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let report = answer.json();
    let seen = &report["servers"][0];
    assert_eq!((&report["exit_code"], &seen["verdict"]["kind"]), (&3.into(), &"refused".into()));
    assert_eq!(seen["checks"][0]["id"], "reachability.connect", "{seen:#}");
    assert_eq!(seen["last_seen"], serde_json::Value::Null, "{seen:#}");
}

#[tokio::test]
async fn with_nothing_live_it_quotes_the_server_and_says_how_old_the_rest_is() {
    let server = TestServer::builder().maxclients(16).start().unwrap();
    let pool = builder(&server).build().unwrap();
    pool.warm_up(1).await.unwrap();
    let mut occupants = Occupants::none(&server);
    occupants.take(6);
    let used = || pool.status().watch.observation.and_then(|seen| seen.snapshot.used());
    until("a look", &pool, || used() == Some(8)).await;
    // Nobody is let in from now on.
    let admin = server.admin();
    admin.set_maxclients(4);
    let clients = admin.client_list();
    let own = clients.iter().find(|client| client["name"].starts_with("redis-guard")).unwrap();
    admin.text(&["CLIENT", "KILL", "ID", &own["id"]]);
    until("the loss", &pool, || pool.status().live == 0).await;

    let app = app(pool);
    let answer = get(&app, "/doctor").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let report = answer.json();
    let seen = &report["servers"][0];
    assert_eq!(seen["verdict"]["kind"], "full", "{seen:#}");
    assert!(seen["verdict"]["reasons"][0].as_str().unwrap().contains("max number of clients"));
    let last = &seen["last_seen"];
    assert_eq!((&last["used"], &last["maxclients"]), (&8.into(), &16.into()), "{seen:#}");
    assert!(last["age_seconds"].as_f64().unwrap() > 0.0, "{seen:#}");
    assert!(seen["capacity"].is_null() && seen["snapshot"].is_null(), "nothing is new: {seen:#}");

    let text = send_with(&app, Method::GET, "/doctor", &[("accept", "text/html")]).await;
    assert_eq!(text.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.body.contains("ERR max number of clients reached"), "{}", text.body);
    assert!(text.body.contains("ago, and old: 8 of 16 slots in use"), "{}", text.body);
}

#[tokio::test]
async fn it_is_there_only_where_it_was_asked_for() {
    let pool = GuardedPool::builder("redis://127.0.0.1:1").build().unwrap();
    let answer = get(&Router::new().merge(status_routes(pool)), "/doctor").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}
