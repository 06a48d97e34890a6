//! Names, places and a server's words are somebody else's: they are shown, never run.

use axum::Router;
use redis_guard::axum::status_routes;
use redis_guard::{Budget, GuardedPool};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use crate::browser::Browser;
use crate::support::{TestServer, unhurried};
use crate::{serve, waiting};

const MARKUP: &str = "<img src=x onerror=ran=1>";
const SCRIPT: &str = "</script><script>ran=1</script>.a\"'&amp;";

#[tokio::test]
async fn markup_in_a_name_is_text() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = TestServer::start().unwrap();
    let pool = unhurried(server.url())
        .name(MARKUP)
        .endpoint(MARKUP, Budget::max(1))
        .leak_after(std::time::Duration::from_millis(1))
        .build()
        .unwrap();
    let _leaked = pool.acquire(MARKUP).await.unwrap();
    pool.try_acquire(MARKUP).unwrap_err();
    let _held = pool.acquire(SCRIPT).await.unwrap();
    waiting::until("two leaks", &pool, || pool.status().leaks.len() == 2).await;
    let app = Router::new().nest("/deep/down", status_routes(pool).overrides().into());

    browser.open(&format!("http://{}/deep/down/status", serve(app).await)).await;
    browser.until("the leaks", "document.querySelectorAll('#leaks tbody tr').length === 2").await;

    let names =
        browser.eval("[...document.querySelectorAll('tbody th')].map((e) => e.textContent)").await;
    assert_eq!(names, serde_json::json!([MARKUP, SCRIPT, MARKUP, SCRIPT]));
    assert_eq!(
        browser.eval("document.querySelector('[data-field=pool]').textContent").await,
        MARKUP
    );
    let events = browser.eval("document.querySelector('#events ol').innerText").await;
    assert!(events.as_str().unwrap().contains(&format!("{MARKUP} refused")), "{events}");
    let made =
        "document.querySelectorAll('img').length + document.querySelectorAll('script').length";
    assert_eq!(browser.eval(made).await, 1, "the page's own script");
    assert_eq!(browser.eval("typeof ran").await, "undefined");
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test]
async fn markup_in_the_words_of_a_server_is_text() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", server.local_addr().unwrap());
    let words = format!("ERR max number of clients reached {MARKUP}");
    let refusal = format!("-{words}\r\n");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = server.accept().await {
            let _ = client.write_all(refusal.as_bytes()).await;
        }
    });
    let pool = unhurried(url).build().unwrap();
    pool.acquire("test").await.unwrap_err();

    let app = Router::new().merge(status_routes(pool));
    browser.open(&format!("http://{}/status", serve(app).await)).await;
    browser.until("a failure", "!document.querySelector('#last-failure').hidden").await;

    let field = "document.querySelector('[data-field=\"breaker.last_failure.message\"]').innerHTML";
    let escaped = words.replace('<', "&lt;").replace('>', "&gt;");
    assert_eq!(browser.eval(field).await, escaped.as_str());
    assert_eq!(browser.eval("typeof ran").await, "undefined");
}

#[tokio::test]
async fn what_got_into_the_page_all_the_same_would_not_run() {
    let Some(mut browser) = Browser::start().await else { return };
    let pool = GuardedPool::builder("redis://127.0.0.1:1").build().unwrap();
    let address = serve(Router::new().merge(status_routes(pool))).await;
    browser.open(&format!("http://{address}/status")).await;
    browser.until("the page", "document.documentElement.dataset.updates >= 1").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());

    for attempt in [
        "document.body.innerHTML = '<img src=x onerror=ran=1>'",
        "{ const s = document.createElement('script'); s.textContent = 'ran=1'; document.body.append(s) }",
        "document.body.setAttribute('onclick', 'ran=1'); document.body.click()",
        "setTimeout('ran=1')",
        "{ const i = document.createElement('img'); i.src = 'http://127.0.0.1:1/'; document.body.append(i) }",
        "fetch('http://127.0.0.1:1/')",
    ] {
        let attempt = format!(
            "new Promise((done) => {{ \
               addEventListener('securitypolicyviolation', (e) => done(e.violatedDirective), {{once: true}}); \
               const run = () => {{ {attempt} }}; try {{ run()?.catch?.(() => 0) }} catch {{}} }})"
        );
        assert!(matches!(browser.eval(&attempt).await, Value::String(_)), "{attempt}");
        assert_eq!(browser.eval("typeof ran").await, "undefined", "{attempt}");
    }
}
