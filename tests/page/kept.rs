//! What the page shows to somebody who comes late, or to whom nothing is live.

use axum::Router;
use redis_guard::axum::status_routes;
use redis_guard::{GuardedPool, redis};

use crate::browser::Browser;
use crate::support::{Occupants, TestServer, unhurried};
use crate::{serve, waiting};

async fn open(browser: &mut Browser, pool: &GuardedPool) {
    let address = serve(Router::new().merge(status_routes(pool.clone()))).await;
    browser.open(&format!("http://{address}/status")).await;
    browser.until("the page", "document.documentElement.dataset.updates >= 1").await;
}

#[tokio::test]
async fn the_charts_show_what_was_before_the_page_was_opened() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = TestServer::builder().maxclients(4).start().unwrap();
    let _occupants = server.fill();
    let pool = unhurried(server.url()).watch(false).build().unwrap();
    for _ in 0..50 {
        pool.acquire("early").await.unwrap_err();
    }
    let kept = || pool.recent_rates().iter().any(|rate| rate.refused > 0);
    waiting::until("what was refused", &pool, kept).await;

    open(&mut browser, &pool).await;

    let drawn = "parseFloat(document.querySelector('#refused-peak').textContent) > 10 \
        && /^M/.test(document.querySelector('#refused-chart .line').getAttribute('d')) \
        && parseFloat(document.querySelector('#dials-peak').textContent) > 0";
    browser.until("the charts", drawn).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test]
async fn with_nothing_live_the_server_is_quoted_and_what_was_seen_of_it_is_marked_as_old() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = TestServer::builder().maxclients(16).start().unwrap();
    let pool = unhurried(server.url()).build().unwrap();
    pool.warm_up(1).await.unwrap();
    let mut occupants = Occupants::none(&server);
    occupants.take(6);
    let used = |pool: &GuardedPool| pool.status().watch.observation.map(|it| it.snapshot.used());
    waiting::until("a look", &pool, || used(&pool).flatten() == Some(8)).await;
    open(&mut browser, &pool).await;
    let old = "document.querySelector('#server').classList.contains('old')";
    assert_eq!(browser.eval(old).await, false);

    cut_off(&server, &pool).await;

    let words = "/ max number of clients reached/.test(document.querySelector('h1').innerText)";
    browser.until("the server's words", words).await;
    browser.until("a mark", old).await;
    let said = browser.eval("document.querySelector('#server .lead').innerText").await;
    assert!(said.as_str().unwrap().contains("of its connections in use, as it was "), "{said}");
    browser.picture("page-old", 1.5).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

/// The pool loses its connections, and the server lets nobody in.
async fn cut_off(server: &TestServer, pool: &GuardedPool) {
    let admin = server.admin();
    admin.set_maxclients(4);
    for client in admin.client_list() {
        if client["name"].starts_with("redis-guard") {
            admin.text(&["CLIENT", "KILL", "ID", &client["id"]]);
        }
    }
    let refused = || {
        let status = pool.status();
        status.live == 0 && status.breaker.last_failure.is_some()
    };
    let asking = async {
        loop {
            let _ = pool.acquire("any").await;
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = asking => {}
        () = waiting::until("a refusal", pool, refused) => {}
    }
}

#[tokio::test]
async fn a_limit_that_changes_says_who_has_set_it() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = TestServer::builder().maxclients(8).start().unwrap();
    let pool = unhurried(server.url()).max_connections(4).watch(false).build().unwrap();
    pool.warm_up(2).await.unwrap();
    let _occupants = server.fill();
    let held = [pool.acquire("a").await.unwrap(), pool.acquire("a").await.unwrap()];
    let third = tokio::spawn({
        let pool = pool.clone();
        async move { redis::cmd("PING").query_async::<()>(&mut pool.acquire("a").await?).await }
    });
    waiting::until("a refusal", &pool, || pool.status().limit == 2).await;

    open(&mut browser, &pool).await;

    let said = "/limit 4 → 2: frozen, as the server refused one more/\
        .test(document.querySelector('#events').innerText)";
    browser.until("who has set it", said).await;
    drop(held);
    third.await.unwrap().unwrap();
}
