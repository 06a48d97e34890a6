//! Light and dark, wide and narrow, and what somebody who cannot tell colours apart is left with.

use std::time::Duration;

use axum::Router;
use redis_guard::axum::status_routes;
use redis_guard::{AsyncCommands as _, Budget, Fleet, GuardedConnection, GuardedPool};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::browser::Browser;
use crate::support::{Occupants, TestServer, unhurried};
use crate::{serve, waiting};

/// Every text that is shown, with the ratio of its contrast to what is behind it (WCAG 2, section 1.4.3),
/// where that is below 4.5.
pub(crate) const FAINT: &str = "(() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = parts(getComputedStyle(e).backgroundColor);
      if (color.length === 3) return color;
    }
  };
  const faint = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let texts = 0;
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !e.checkVisibility()) continue;
    texts += 1;
    const [a, b] = [light(parts(getComputedStyle(e).color)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${ratio.toFixed(2)}: ${walker.currentNode.textContent}`);
  }
  return texts < 80 ? [`only ${texts} texts`] : faint;
})()";

/// A service that shows all there is to show: a full server, a fleet, leaks, long names.
struct Scene<'a> {
    pools: Vec<GuardedPool>,
    _leases: Vec<GuardedConnection>,
    _occupants: Occupants<'a>,
}

fn storefront(server: &TestServer) -> GuardedPool {
    unhurried(server.url())
        .name("storefront")
        .max_connections(16)
        .fleet(Fleet::named("checkout-service"))
        .endpoint("checkout", Budget::max(8).reserve(3))
        .endpoint("/api/v2/customers/{id}/recommendations", Budget::max(4))
        .endpoint("session", Budget::max(6).reserve(2))
        .leak_after(Duration::from_millis(500))
        .acquire_timeout(Duration::from_millis(50))
        .build()
        .unwrap()
}

async fn scene(server: &TestServer) -> Scene<'_> {
    let pools = vec![storefront(server), storefront(server)];
    for pool in &pools {
        waiting::until("its fleet", pool, || {
            let status = pool.status();
            let joined = status.fleet.is_some_and(|fleet| fleet.joined);
            if status.live == 0 {
                drop(pool.try_acquire("session"));
            }
            joined && status.watch.observation.is_some()
        })
        .await;
    }
    let mut leases = Vec::new();
    for endpoint in ["checkout", "/api/v2/customers/{id}/recommendations", "session"] {
        // Its share comes with the next heartbeat.
        leases.push(ask_until_served(&pools[0], endpoint).await);
    }
    let mut lane = pools[0].shared("session");
    let asking = async { while lane.get::<_, Option<String>>("a").await.is_err() {} };
    waiting::soon("a lane", asking).await;
    let occupants = server.fill();
    // Refused by the server, or held back by the fleet: whichever comes first.
    for _ in 0..8 {
        leases.extend(pools[0].acquire("checkout").await);
    }
    waiting::until("leaks", &pools[0], || pools[0].status().leaks.len() >= 3).await;
    Scene { pools, _leases: leases, _occupants: occupants }
}

async fn ask_until_served(pool: &GuardedPool, endpoint: &str) -> GuardedConnection {
    let asking = async {
        loop {
            if let Ok(lease) = pool.acquire(endpoint.to_owned()).await {
                break lease;
            }
        }
    };
    waiting::soon("a lease", asking).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_readable_in_light_and_dark_on_a_desk_and_on_a_phone() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = TestServer::builder().maxclients(24).start().unwrap();
    let scene = scene(&server).await;
    let admin = Router::new().merge(status_routes(scene.pools[0].clone()).overrides());
    let url = format!("http://{}/status", serve(admin).await);

    let mut papers = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        for (device, width, height) in
            [("wide", 1200, 900), ("phone", 390, 844), ("small", 320, 568)]
        {
            let what = format!("{scheme}, {device}");
            browser.resize(width, height, width < 1000).await;
            browser.open(&url).await;
            browser.until(&what, "document.documentElement.dataset.updates >= 1").await;

            assert_eq!(browser.eval(FAINT).await, serde_json::json!([]), "{what}");
            let overflow = browser.eval("document.documentElement.scrollWidth - innerWidth").await;
            assert!(overflow.as_i64().unwrap() <= 0, "{what}: {overflow} pixels too wide");
            assert_eq!(browser.eval("innerWidth").await, width, "{what}");
        }
        papers
            .push(browser.eval("getComputedStyle(document.documentElement).backgroundColor").await);
    }

    assert_ne!(papers[0], papers[1], "light and dark");
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_state_is_said_in_words_and_each_part_has_its_heading() {
    let Some(mut browser) = Browser::start().await else { return };
    let pool = GuardedPool::builder("redis://127.0.0.1:1").build().unwrap();
    pool.acquire("test").await.unwrap_err();
    browser
        .open(&format!("http://{}/status", serve(Router::new().merge(status_routes(pool))).await))
        .await;
    browser.until("the state", "document.documentElement.dataset.level === 'bad'").await;

    let word = browser.eval("document.querySelector('#word').innerText").await;
    assert_eq!(word, "DOWN");
    assert_eq!(browser.eval("document.title").await, "■ DOWN · default");
    let unnamed = "[...document.querySelectorAll('section')].filter((s) => \
        !document.getElementById(s.getAttribute('aria-labelledby'))?.textContent).length";
    assert_eq!(browser.eval(unnamed).await, 0);
    assert_eq!(browser.eval("document.querySelectorAll('h1').length").await, 1);
    let headless = "[...document.querySelectorAll('table')].filter((t) => !t.querySelector('th[scope=col]')).length";
    assert_eq!(browser.eval(headless).await, 0);
    let said = browser.eval("document.querySelector('[role=status]').textContent").await;
    assert!(
        matches!(&said, Value::String(words) if words.starts_with("DOWN. Nothing is live")),
        "{said}"
    );
}

/// Five minutes in the life of a service, for the pictures in the README.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pictures() {
    if std::env::var_os("SCREENSHOTS").is_none() {
        return;
    }
    let Some(mut browser) = Browser::start().await else { return };
    let server = TestServer::builder().maxclients(48).start().unwrap();
    let pool = storefront(&server);
    let other = storefront(&server);
    let admin = Router::new().merge(status_routes(pool.clone()));
    let shops = [shop(&pool), shop(&other)];
    browser.resize(1200, 900, false).await;
    browser.open(&format!("http://{}/status", serve(admin).await)).await;
    pass(40).await;
    browser.picture("page-healthy", 1.1).await;

    let leaked =
        [ask_until_served(&pool, "checkout").await, ask_until_served(&pool, "checkout").await];
    pass(10).await;
    let mut occupants = server.fill();
    pass(35).await;
    take(&server, &mut occupants, 6);
    pass(4).await;
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        browser.picture(&format!("page-{scheme}"), 1.1).await;
        browser.resize(390, 844, true).await;
        browser.picture(&format!("page-{scheme}-phone"), 3.0).await;
        browser.resize(1200, 900, false).await;
    }

    drop(leaked);
    take(&server, &mut occupants, usize::MAX);
    pass(15).await;
    browser.prefer("light").await;
    browser.picture("page-down", 1.1).await;
    occupants.free();
    pass(20).await;
    browser.picture("page-recovered", 1.1).await;
    drop(shops);
}

/// Somebody else gets so many of our slots, those first that were used last.
fn take(server: &TestServer, occupants: &mut Occupants<'_>, slots: usize) {
    let admin = server.admin();
    let mut ours = admin.client_list();
    ours.retain(|client| client["name"].starts_with("redis-guard"));
    ours.sort_by_key(|client| client["idle"].parse::<u64>().unwrap());
    occupants.top_up();
    for client in ours.iter().take(slots) {
        admin.text(&["CLIENT", "KILL", "ID", &client["id"]]);
        occupants.top_up();
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// Callers, more of them than the pool has connections.
fn shop(pool: &GuardedPool) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for (endpoint, callers_of_it, hold) in
        [("checkout", 5, 40), ("session", 6, 15), ("/api/v2/customers/{id}/recommendations", 3, 70)]
    {
        for _ in 0..callers_of_it {
            let pool = pool.clone();
            callers.spawn(async move {
                loop {
                    if let Ok(_lease) = pool.acquire(endpoint).await {
                        tokio::time::sleep(Duration::from_millis(hold)).await;
                    }
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(20..400))).await;
                }
            });
        }
    }
    callers
}
