//! While nobody looks the page does not ask; while nobody answers it says so.

use crate::browser::Browser;
use crate::example::Service;
use crate::support::TestServer;

#[tokio::test]
async fn it_says_that_the_service_is_gone_and_comes_back_with_it() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = TestServer::start().unwrap();
    let service = Service::start(&server.url());
    let operators = service.operators;
    browser.open(&format!("http://{operators}/status")).await;
    browser.until("the page", "document.documentElement.dataset.level === 'ok'").await;
    browser.eval("window.opened_once = true").await;

    drop(service);
    let gone = "document.documentElement.classList.contains('stale') \
        && /NO ANSWER.* has not answered for /s.test(document.querySelector('h1').innerText) \
        && /It cannot be reached; next try in/.test(document.querySelector('#also').innerText) \
        && document.querySelector('[data-override]').disabled";
    browser.until("that it is gone", gone).await;
    assert_eq!(browser.eval("document.querySelector('[data-field=live]').textContent").await, "4");
    browser.picture("page-gone", 1.0).await;

    let _service = Service::start_at(&server.url(), operators);
    let back = "document.documentElement.dataset.level === 'ok' \
        && !document.documentElement.classList.contains('stale')";
    browser.until("that it is back", back).await;
    assert_eq!(browser.eval("window.opened_once").await, true, "it was loaded again");
}

#[tokio::test]
async fn it_does_not_ask_while_it_is_hidden_and_asks_at_once_when_it_is_seen_again() {
    let Some(mut browser) = Browser::start().await else { return };
    let service = Service::start("redis://127.0.0.1:1");
    browser.open(&format!("http://{}/status", service.operators)).await;
    browser.until("the page", "document.documentElement.dataset.updates >= 2").await;
    let hide = |hidden: bool| {
        format!(
            "Object.defineProperty(document, 'hidden', {{value: {hidden}, configurable: true}}); \
             window.asked ??= 0; window.fetched ??= window.fetch; \
             window.fetch = (...request) => {{ asked += 1; return fetched(...request); }}; \
             document.dispatchEvent(new Event('visibilitychange')); window.at = Date.now()"
        )
    };

    browser.eval(&hide(true)).await;
    // It asks once a second.
    browser.until("time", "Date.now() - at > 1500").await;
    assert_eq!(browser.eval("asked").await, 0);

    browser.eval(&hide(false)).await;
    assert_eq!(browser.eval("asked").await, 1);
    browser.until("the second", "asked >= 2").await;
}
