//! The numbers on the page are those of `/status`, while Redis fills up, is full, and has room again.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::browser::Browser;
use crate::client::{Client, Load};
use crate::example::{Service, squeeze};
use crate::support::TestServer;
use crate::waiting::soon;

/// What every moment has to show, whatever else there is.
const ALWAYS: [&str; 30] = [
    "pool",
    "server",
    "max_connections",
    "limit",
    "limited_by",
    "live",
    "idle",
    "in_use",
    "dialing",
    "waiting",
    "breaker.state",
    "breaker.forced",
    "breaker.failures",
    "breaker.next_dial_in_seconds",
    "watch.saturation",
    "watch.rejections_seen",
    "watch.age_seconds",
    "watch.observation.ceiling",
    "watch.observation.new_rejections",
    "watch.observation.connections_per_second",
    "watch.observation.commands_per_second",
    "watch.observation.cpu_cores",
    "watch.observation.replicas_online",
    "watch.observation.snapshot.blocked_clients",
    "endpoints./limited.in_use",
    "endpoints./limited.max",
    "endpoints./session/{id}.reserve",
    "endpoints./session/{id}.leases",
    "endpoints./session/{id}.acquired",
    "dials.connected",
];

/// They go on between the page's look and ours.
const AGES: [&str; 2] = ["next_dial_in_seconds", "age_seconds"];

/// What the page shows, by the path in `/status`.
type Shown = BTreeMap<String, String>;

/// Where the headline is among them.
const HEADLINE: &str = "h1";

async fn shown(browser: &mut Browser) -> Shown {
    let fields = browser
        .eval(
            "Object.fromEntries([...document.querySelectorAll('[data-field]'), document.querySelector('h1')] \
             .map((e) => [e.dataset.field ?? 'h1', e.dataset.field ? e.textContent : e.innerText]))",
        )
        .await;
    serde_json::from_value(fields).unwrap()
}

/// The value at a path; an endpoint is found by its name, which may have any character but a dot.
fn at(status: &Value, path: &str) -> Value {
    path.split('.').fold(status.clone(), |value, key| match &value {
        Value::Array(items) => {
            let named = |item: &&Value| item["name"] == key;
            let item = key.parse().ok().and_then(|index: usize| items.get(index));
            item.or(items.iter().find(named)).cloned().unwrap_or_default()
        }
        _ => value[key].clone(),
    })
}

/// How a person would write it.
fn written(path: &str, value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::Bool(flag) => (if *flag { "yes" } else { "no" }).to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(ratio) if path == "watch.saturation" || path.ends_with("cpu_cores") => {
            match (ratio.as_f64().unwrap() * 1000.0 + 1e-6).floor() / 10.0 {
                0.0 if ratio.as_f64() > Some(0.0) => "< 0.1 %".to_owned(),
                percent => format!("{percent} %"),
            }
        }
        Value::Number(rate) if path.ends_with("per_second") => {
            let rate = rate.as_f64().unwrap();
            let digits = if rate >= 10.0 { rate.round() } else { (rate * 10.0).round() / 10.0 };
            format!("{digits}/s")
        }
        number => number.to_string(),
    }
}

/// Compares every field of the page, as it is after a look that began later than ours did, with `/status`
/// before and after. Returns what was compared; `None` where too much happened meanwhile.
async fn compared(browser: &mut Browser, service: &Service) -> Option<Shown> {
    let before = service.status().await;
    let updates = browser.eval("Number(document.documentElement.dataset.updates)").await;
    let later = format!("document.documentElement.dataset.updates >= {updates} + 2");
    browser.until("two more looks", &later).await;
    let shown = shown(browser).await;
    let after = service.status().await;

    let is_age = |path: &str| AGES.iter().any(|age| path.ends_with(age));
    let wrong = shown.iter().find(|(path, text)| {
        let of = |status| written(path, &at(status, path));
        path.as_str() != HEADLINE && !is_age(path) && **text != of(&before) && **text != of(&after)
    });
    wrong.is_none().then_some(shown)
}

/// The page says that it is so, and all of its numbers are right.
async fn shows(browser: &mut Browser, service: &Service, wanted: &[(&str, &str)]) {
    for (path, text) in wanted {
        let is_there =
            format!("document.querySelector('[data-field=\"{path}\"]')?.textContent === '{text}'");
        browser.until(&format!("{path} {text}"), &is_there).await;
    }
    let comparing = async {
        loop {
            if let Some(shown) = compared(browser, service).await {
                break shown;
            }
        }
    };
    let shown = soon("a page that is right", comparing).await;
    for path in ALWAYS {
        assert!(shown.contains_key(path), "{path} is not on the page: {shown:#?}");
    }
}

async fn headline(browser: &mut Browser) -> String {
    browser.eval("document.querySelector('h1').innerText").await.as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_number_is_that_of_status_while_redis_fills_up_and_when_it_has_room_again() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = TestServer::builder().maxclients(32).start().unwrap();
    let service = Service::start(&server.url());
    let mut client = Client::connect(service.clients).await;
    client.request("PUT", "/session/1", "somebody").await;
    client.get("/limited").await;
    browser.open(&format!("http://{}/status", service.operators)).await;
    browser.eval("window.opened_once = true").await;

    shows(&mut browser, &service, &[("live", "4"), ("breaker.state", "closed")]).await;
    let words = headline(&mut browser).await;
    assert!(
        words.contains("OK") && words.contains("All is well: 4 of 8 connections live"),
        "{words}"
    );

    // Somebody else takes every slot but ours, and what the pool gives back of them under that pressure. Either
    // a dial of those who wait is refused, or the watch sees it first.
    let mut occupants = server.fill();
    squeeze(&server, 4);
    let load = Load::start(service.clients, (0..8).map(|n| format!("/session/{n}"))).await;
    service.until("pressure", |status| status["limit"].as_u64() <= Some(4)).await;
    drop(load);
    let filling = async {
        loop {
            occupants.top_up();
            let Some(shown) = compared(&mut browser, &service).await else { continue };
            let full = format!("FULL Redis is full: {} of 8 connections live", shown["live"]);
            if shown[HEADLINE].contains(&full) {
                break;
            }
        }
    };
    soon("a page that says so, and is right", filling).await;

    squeeze(&server, 0);
    service.until("nothing live", |status| status["live"] == 0).await;
    let is_refused =
        |status: &Value| !at(status, "endpoints./session/{id}.rejected.breaker_open").is_null();
    let asking = async {
        while !is_refused(&service.status().await) {
            client.get("/session/unknown").await;
        }
    };
    soon("a refusal", asking).await;
    let nothing = [("live", "0"), ("breaker.state", "open")];
    shows(&mut browser, &service, &nothing).await;
    let words = headline(&mut browser).await;
    assert!(words.contains("FULL Nothing is live, Redis is full: "), "{words}");
    let shown = shown(&mut browser).await;
    assert!(shown.contains_key("endpoints./session/{id}.rejected.breaker_open"), "{shown:#?}");

    server.admin().set_maxclients(32);
    occupants.free();
    let load = Load::start(service.clients, (0..8).map(|n| format!("/session/{n}"))).await;
    let recovered = |s: &Value| s["live"] != 0 && s["limited_by"] == "price_law";
    service.until("connections and room", recovered).await;
    drop(load);
    let again = [("breaker.state", "closed"), ("breaker.failures", "0")];
    shows(&mut browser, &service, &again).await;

    let well = "/OK\\s+All is well/.test(document.querySelector('h1').innerText)";
    browser.until("a good end", well).await;
    assert_eq!(browser.eval("window.opened_once").await, true, "it was loaded again");
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}
