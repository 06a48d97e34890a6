//! `GET /doctor`: who holds the slots, asked over a connection that is open already.

use axum::Router;
use axum::http::{Method, StatusCode};
use redis_guard::GuardedPool;
use redis_guard::axum::status_routes;

use crate::support::TestServer;
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
    assert_eq!(seen["verdict"]["kind"], "ceiling_too_low", "{seen}");
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
async fn without_a_connection_it_is_refused_like_anybody() {
    let pool = GuardedPool::builder("redis://127.0.0.1:1").build().unwrap();
    let answer = get(&app(pool), "/doctor").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn it_is_there_only_where_it_was_asked_for() {
    let pool = GuardedPool::builder("redis://127.0.0.1:1").build().unwrap();
    let answer = get(&Router::new().merge(status_routes(pool)), "/doctor").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}
