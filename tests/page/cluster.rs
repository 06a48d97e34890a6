//! A pool of a cluster: its nodes, and first the one that is full.

use std::time::Duration;

use axum::Router;
use redis_guard::axum::status_routes;
use redis_guard::{AsyncCommands, GuardedPool};
use tokio::task::JoinSet;

use crate::browser::Browser;
use crate::looks::FAINT;
use crate::support::{Cluster, HANG, TestServer};
use crate::{serve, waiting};

/// Whether the headline matches.
fn h1(pattern: &str) -> String {
    format!("/{pattern}/.test(document.querySelector('h1').innerText)")
}

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
    let well = h1("OK\\s+All is well: 3 of 48 connections live at 3 nodes\\.");
    browser.until("that all is well", &well).await;

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
    let said =
        format!("NODE FULL\\s+Worst node {}: nothing is live, Redis is full: ", cluster.address(1));
    browser.until("the full node, and not the sum", &h1(&said)).await;
    assert_eq!(browser.eval(FAINT).await, serde_json::json!([]));
    let overflow = browser.eval("document.documentElement.scrollWidth - innerWidth").await;
    assert!(overflow.as_i64().unwrap() <= 0, "{overflow} pixels too wide");
    browser.picture("page-cluster", 6.0).await;
}

/// Callers of each node, until it is dropped.
fn callers(pool: &GuardedPool, cluster: &Cluster) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for node in 0..cluster.nodes().len() {
        let (mut handle, key) = (pool.shared("cart"), cluster.key_on(node));
        callers.spawn(async move {
            loop {
                let _ = handle.get::<_, Option<u64>>(&key).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    callers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_headline_is_about_the_worst_node_and_what_else_is_wrong_names_its_node() {
    let Some(mut browser) = Browser::start().await else { return };
    let cluster = Cluster::start(3, &TestServer::builder()).unwrap();
    let [first, second, third] = [0, 1, 2].map(|node| cluster.address(node));
    cluster.node(2).admin().text(&["ACL", "SETUSER", "default", "-info"]);
    let pool = GuardedPool::cluster(cluster.urls()).name("shop").build().unwrap();
    let _callers = callers(&pool, &cluster);
    let address = serve(Router::new().merge(status_routes(pool.clone()))).await;
    browser.open(&format!("http://{address}/status")).await;
    let place = |node: &str| {
        format!("/shop → worst node {node}/.test(document.querySelector('.where').innerText)")
    };
    let unwatched = h1(&format!("UNWATCHED\\s+Worst node {third}: the server cannot be watched: "));
    browser.until("what is not watched", &format!("{unwatched} && {}", place(&third))).await;

    cluster.node(1).crash();
    let down = format!(
        "NODE DOWN\\s+Worst node {second}: nothing is live, no Redis listens at that address: callers of its slots are refused "
    );
    let also = format!(
        "/^Node {third}: the server cannot be watched: /m.test(document.querySelector('#also').innerText)"
    );
    let both = format!("{} && {also} && {}", h1(&down), place(&second));
    browser.until("the node that is down, and the other trouble", &both).await;
    let heading = "document.querySelector('#breaker h2').innerText === 'Breaker of the worst node'";
    browser.until("whose breaker it is", heading).await;
    browser.picture("page-cluster-down", 1.1).await;

    cluster.node(1).restart().unwrap();
    browser.until("its return", &format!("{unwatched} && {}", place(&third))).await;

    cluster.nodes().iter().for_each(TestServer::crash);
    let all = h1(&format!(
        "DOWN\\s+Worst node ({first}|{second}|{third}): .* Nor is anything live at 2 other nodes\\."
    ));
    let none = "document.querySelector('#word').innerText === 'DOWN'";
    browser.until("all of them down", &format!("{all} && {none}")).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}
