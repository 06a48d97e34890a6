//! Error replies that say something about the server.

use axum::Router;
use redis_guard::GuardedPool;
use redis_guard::axum::status_routes;

use crate::browser::Browser;
use crate::support::TestServer;
use crate::{serve, waiting};

#[tokio::test]
async fn they_are_shown_by_kind_as_soon_as_there_are_any() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = TestServer::start().unwrap();
    let pool = GuardedPool::builder(server.url()).build().unwrap();
    let mut lease = pool.acquire("cart").await.unwrap();
    let address = serve(Router::new().merge(status_routes(pool))).await;
    browser.open(&format!("http://{address}/status")).await;
    browser.until("the page", "document.documentElement.dataset.updates >= 1").await;
    let is_visible = "document.querySelector('#server-errors').checkVisibility()";
    assert_eq!(browser.eval(is_visible).await, false);

    server.admin().text(&["REPLICAOF", "127.0.0.1", "1"]);
    for _ in 0..3 {
        let set = waiting::cmd("SET cart apples");
        set.query_async::<()>(&mut lease).await.unwrap_err();
    }

    let shown = "document.querySelector('[data-field=\"server_errors.readonly\"]')?.textContent";
    browser.until("three of a kind", &format!("{shown} === '3'")).await;
    assert_eq!(browser.eval(is_visible).await, true);
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}
