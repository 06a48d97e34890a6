//! A pool whose server sentinels name: where it is, who says so, and that nobody does.

use axum::Router;
use redis_guard::GuardedPool;
use redis_guard::axum::status_routes;

use crate::browser::Browser;
use crate::looks::FAINT;
use crate::support::{HANG, SentinelSet};
use crate::{serve, waiting};

/// Whether the element of this path has this text.
fn says(path: &str, text: &str) -> String {
    format!("document.querySelector('#sentinel [data-field=\"{path}\"]').textContent === '{text}'")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_and_sentinels_that_are_gone_are_shown() {
    let Some(mut browser) = Browser::start().await else { return };
    // Its master moves only where it is told to, however busy the machine is.
    let set = SentinelSet::builder().replicas(1).start().unwrap();
    let builder = GuardedPool::sentinel(set.sentinels(), set.name()).name("shop");
    let pool = builder.acquire_timeout(HANG).build().unwrap();
    drop(waiting::soon("a lease", pool.acquire("cart")).await.unwrap());
    let address = serve(Router::new().merge(status_routes(pool.clone()))).await;
    browser.resize(320, 568, true).await;
    browser.open(&format!("http://{address}/status")).await;

    browser.until("its server", &says("server", &set.address(0))).await;
    browser.until("no move", &says("sentinel.moves", "0")).await;
    browser.until("its master", &says("sentinel.master", set.name())).await;
    let connected = "[...document.querySelectorAll('#sentinels dd')] \
        .filter((e) => e.textContent === 'connected').length === 1";
    browser.until("one sentinel", connected).await;
    assert_eq!(browser.eval("document.querySelectorAll('#sentinels dt').length").await, 3);

    set.fail_over();
    let new = set.address(set.moved_from(0));
    browser.until("the new server", &says("server", &new)).await;
    browser.until("a move", &says("sentinel.moves", "1")).await;
    let moved = format!(
        "[...document.querySelectorAll('#events .what')].some((e) => \
         e.textContent === 'mymaster moved, {} → {new}')",
        set.address(0)
    );
    browser.until("the event", &moved).await;
    browser.until("a good end", "document.documentElement.dataset.level === 'ok'").await;
    let trouble = "document.querySelector('#sentinel-trouble').checkVisibility()";
    assert_eq!(browser.eval(trouble).await, false);

    (0..3).for_each(|index| set.sentinel(index).crash());
    let warned = format!(
        "/NO SENTINEL\\s+No sentinel says where mymaster is: the pool goes on with {new}, / \
         .test(document.querySelector('h1').innerText)"
    );
    browser.until("a warning", &warned).await;
    assert_eq!(browser.eval(trouble).await, true);
    let each = "[...document.querySelectorAll('#sentinels dd')] \
        .filter((e) => e.textContent.startsWith('[refused]')).length === 3";
    browser.until("why each of them does not say it", each).await;
    assert_eq!(browser.eval(FAINT).await, serde_json::json!([]));
    let overflow = browser.eval("document.documentElement.scrollWidth - innerWidth").await;
    assert!(overflow.as_i64().unwrap() <= 0, "{overflow} pixels too wide");
    browser.picture("page-sentinels-lost", 6.0).await;

    set.restart_sentinel(1).unwrap();
    let back = "document.documentElement.dataset.level === 'ok' \
        && /a sentinel says again where mymaster is/ \
            .test(document.querySelector('#events').textContent)";
    browser.until("a sentinel", back).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test]
async fn there_is_nothing_to_show_of_a_pool_without_sentinels() {
    let Some(mut browser) = Browser::start().await else { return };
    let pool = GuardedPool::builder("redis://127.0.0.1:1").build().unwrap();
    let address = serve(Router::new().merge(status_routes(pool))).await;
    browser.open(&format!("http://{address}/status")).await;
    browser.until("the page", "document.documentElement.dataset.updates >= 1").await;
    let is_visible = "document.querySelector('#sentinel').checkVisibility()";
    assert_eq!(browser.eval(is_visible).await, false);
}

#[tokio::test]
async fn sentinels_that_are_down_from_the_start_are_the_reason_why_nothing_is_live() {
    let Some(mut browser) = Browser::start().await else { return };
    let pool = GuardedPool::sentinel(["redis://127.0.0.1:1"], "mymaster").build().unwrap();
    pool.acquire("test").await.unwrap_err();
    let address = serve(Router::new().merge(status_routes(pool))).await;
    browser.open(&format!("http://{address}/status")).await;
    let said = "/DOWN\\s+Nothing is live, no sentinel says where Redis is: / \
        .test(document.querySelector('h1').innerText) \
        && /No sentinel says where mymaster is: none has said it yet\\./.test(document.querySelector('#also').innerText)";
    browser.until("the reason", said).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}
