//! The buttons that force the breaker, and other people's pages that would like to press them.

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use redis_guard::axum::status_routes;
use redis_guard::{BreakerState, GuardedPool};

use crate::browser::Browser;
use crate::{serve, waiting};

fn absent() -> GuardedPool {
    GuardedPool::builder("redis://127.0.0.1:1").build().unwrap()
}

const DIALOG: &str = "document.querySelector('dialog')";

#[tokio::test]
async fn the_breaker_is_forced_after_a_question_and_given_back() {
    let Some(mut browser) = Browser::start().await else { return };
    let pool = absent();
    let app = Router::new().nest("/redis", status_routes(pool.clone()).overrides().into());
    browser.open(&format!("http://{}/redis/status", serve(app).await)).await;
    browser.until("the page", "document.documentElement.dataset.updates >= 1").await;
    let press = |what: &str| format!("document.querySelector('{what}').click()");

    browser.eval(&press("[data-override=open]")).await;
    assert_eq!(browser.eval(&format!("{DIALOG}.open")).await, true);
    assert_eq!(browser.eval("document.activeElement.value").await, "no");
    browser.eval(&press("dialog [value=no]")).await;
    assert_eq!(browser.eval(&format!("{DIALOG}.open")).await, false);
    assert_eq!(pool.breaker().state(), BreakerState::Closed);

    for (button, state, forced, words) in [
        ("open", BreakerState::Open, true, "The breaker is open, held there."),
        ("closed", BreakerState::Closed, true, "The breaker is closed, held there."),
        ("auto", BreakerState::Closed, false, "The breaker is closed, by itself."),
    ] {
        browser.eval(&press(&format!("[data-override={button}]"))).await;
        browser.eval(&press("dialog [value=yes]")).await;
        let said = format!("document.querySelector('#override-answer').textContent === '{words}'");
        browser.until(words, &said).await;
        waiting::until(button, &pool, || pool.breaker().state() == state).await;
        assert_eq!(pool.status().breaker.forced, forced, "{button}");
        let shown = format!(
            "document.querySelector('[data-field=\"breaker.forced\"]').textContent === '{}'",
            if forced { "yes" } else { "no" }
        );
        browser.until("the page", &shown).await;
    }
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test]
async fn without_overrides_there_are_no_buttons() {
    let Some(mut browser) = Browser::start().await else { return };
    let address = serve(Router::new().merge(status_routes(absent()))).await;
    browser.open(&format!("http://{address}/status")).await;
    browser.until("the page", "document.documentElement.dataset.updates >= 1").await;

    let buttons =
        "[...document.querySelectorAll('button')].filter((b) => b.checkVisibility()).length";
    assert_eq!(browser.eval(buttons).await, 0);
}

#[tokio::test]
async fn a_page_of_another_site_cannot_force_the_breaker() {
    let Some(mut browser) = Browser::start().await else { return };
    let pool = absent();
    let address = serve(Router::new().merge(status_routes(pool.clone()).overrides())).await;
    let elsewhere = serve(Router::new().route("/", get(Html("<p>Win a prize!")))).await;
    let target = format!("http://{address}/breaker/open");

    // The same machine under another name is another site; under another port, another origin.
    for host in ["localhost", "127.0.0.1"] {
        browser.open(&format!("http://{host}:{}/", elsewhere.port())).await;
        let sent =
            format!("fetch('{target}', {{method: 'POST', mode: 'no-cors'}}).then((r) => r.type)");
        assert_eq!(browser.eval(&sent).await, "opaque", "{host}: it should have arrived");
        let form = format!(
            "(() => {{ const form = document.createElement('form'); form.method = 'POST'; \
             form.action = '{target}'; document.body.append(form); form.submit(); }})()"
        );
        browser.follow(&form).await;
        browser.until("an answer", "document.body?.innerText.includes('of another origin')").await;
    }

    assert!(!pool.status().breaker.forced);
}
