//! A pool of a cluster: its nodes, and first the one that is full.

use axum::Router;
use redis_guard::axum::status_routes;
use redis_guard::{AsyncCommands, GuardedPool};

use crate::browser::Browser;
use crate::looks::FAINT;
use crate::support::{Cluster, HANG, TestServer};
use crate::{serve, waiting};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nodes_of_a_cluster_are_shown_and_the_full_one_first() {
    let Some(mut browser) = Browser::start().await else { return };
    let cluster = Cluster::start(3, &TestServer::builder()).unwrap();
    let pool = GuardedPool::cluster(cluster.urls()).name("shop").acquire_timeout(HANG);
    let pool = pool.build().unwrap();
    let mut handle = pool.shared("cart");
    for node in 0..3 {
        let () = waiting::soon("SET", handle.set(cluster.key_on(node), 1)).await.unwrap();
    }
    let address = serve(Router::new().merge(status_routes(pool.clone()))).await;
    browser.resize(320, 568, true).await;
    browser.open(&format!("http://{address}/status")).await;

    let primaries = "[...document.querySelectorAll('#nodes dd')] \
        .filter((e) => /^primary of 5,46[12] slots · 1 of 16 connections live/.test(e.textContent)).length === 3";
    browser.until("three primaries", primaries).await;
    let unserved =
        "document.querySelector('[data-field=\"cluster.unserved_slots\"]').textContent === '0'";
    browser.until("no slot that nobody serves", unserved).await;

    // The links to the other nodes take more than that.
    cluster.node(1).admin().text(&["CONFIG", "SET", "maxclients", "1"]);
    cluster.node(1).admin().text(&["CLIENT", "KILL", "TYPE", "normal"]);
    let full = format!(
        "document.querySelector('#nodes dt').textContent === '{}' \
         && /max number of clients/.test(document.querySelector('#nodes dd').textContent)",
        cluster.address(1)
    );
    let _ = handle.set::<_, _, ()>(cluster.key_on(1), 1).await;
    browser.until("the full node first, with its words", &full).await;
    assert_eq!(browser.eval(FAINT).await, serde_json::json!([]));
    let overflow = browser.eval("document.documentElement.scrollWidth - innerWidth").await;
    assert!(overflow.as_i64().unwrap() <= 0, "{overflow} pixels too wide");
    browser.picture("page-cluster", 6.0).await;
}
