//! Chromium over its DevTools protocol, on a pipe: one message is one JSON text and a NUL.
//!
//! No crate for it: this is all that the tests need, and the smallest of those crates brings a hundred others.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use std::{env, fs};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::support::chromium::{FLAGS, SHELL, find, from_base64};
use crate::support::skip;

/// Far above what anything takes, on a machine that has other things to do.
const HANG: Duration = Duration::from_secs(30);

/// One browser with one tab. What the tab complains of (exceptions, violations of the page's policy, what it
/// could not load) is kept.
pub(crate) struct Browser {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    session: String,
    calls: u64,
    events: VecDeque<Value>,
    complaints: Vec<String>,
    profile: TempDir,
}

impl Browser {
    /// `None` where there is no Chromium, and nobody demands one.
    pub(crate) async fn start() -> Option<Self> {
        let Some(program) = find() else {
            let demanded =
                ["REQUIRE_CHROMIUM", "CI"].iter().any(|name| env::var_os(name).is_some());
            assert!(!demanded, "there is no chromium: install it, or set CHROMIUM to its path");
            skip("there is no chromium, see tests/page/main.rs");
            return None;
        };
        let profile = tempfile::Builder::new().prefix("redis-guard-page-").tempdir().unwrap();
        let mut process = Command::new("sh")
            .args(["-c", SHELL])
            .arg(program)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(FLAGS)
            .env("HOME", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(profile.path().join("stderr")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut browser = Self {
            input: process.stdin.take().unwrap(),
            output: BufReader::new(process.stdout.take().unwrap()),
            process,
            session: String::new(),
            calls: 0,
            events: VecDeque::new(),
            complaints: Vec::new(),
            profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach).await;
        session["sessionId"].as_str().unwrap().clone_into(&mut browser.session);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.call(domain, json!({})).await;
        }
        Some(browser)
    }

    pub(crate) async fn open(&mut self, url: &str) {
        let navigated = self.call("Page.navigate", json!({"url": url})).await;
        assert_eq!(navigated["errorText"], Value::Null, "{url}");
        self.event("Page.loadEventFired").await;
    }

    /// The value of an expression, or what its promise comes to.
    pub(crate) async fn eval(&mut self, expression: &str) -> Value {
        let evaluate =
            json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", evaluate).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer:#}");
        answer["result"]["value"].take()
    }

    /// An expression that leaves the page; returns when the next one is there.
    pub(crate) async fn follow(&mut self, expression: &str) {
        self.eval(expression).await;
        self.event("Page.loadEventFired").await;
    }

    /// Looks again and again until the expression is true.
    pub(crate) async fn until(&mut self, what: &str, expression: &str) {
        let limit = HANG.as_millis() / 2;
        let looking = format!(
            "new Promise((done) => {{ const since = Date.now(); const look = () => \
             ({expression}) ? done(true) : Date.now() - since > {limit} ? done(false) : setTimeout(look, 10); \
             look(); }})"
        );
        if self.eval(&looking).await != true {
            let page = self.eval("document.body.innerText").await;
            panic!("{what} should have come to be, but:\n{}", page.as_str().unwrap());
        }
    }

    /// A window of this size, in CSS pixels.
    pub(crate) async fn resize(&mut self, width: u32, height: u32, phone: bool) {
        let scale = if phone { 2 } else { 1 };
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone});
        self.call("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// `light` or `dark`.
    pub(crate) async fn prefer(&mut self, scheme: &str) {
        let feature = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", feature).await;
    }

    /// A picture of the page from its top, so many times as high as it is wide, where `SCREENSHOTS` names a
    /// directory.
    pub(crate) async fn picture(&mut self, name: &str, height: f64) {
        let Some(dir) = env::var_os("SCREENSHOTS") else { return };
        let width = self.eval("innerWidth").await;
        let all = self.eval("document.documentElement.scrollHeight").await;
        let height = all.as_f64().unwrap().min(height * width.as_f64().unwrap());
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
        let whole = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let picture = self.call("Page.captureScreenshot", whole).await;
        fs::create_dir_all(&dir).unwrap();
        let path = PathBuf::from(dir).join(format!("{name}.png"));
        fs::write(path, from_base64(picture["data"].as_str().unwrap())).unwrap();
    }

    /// What the tab complained of since the last time.
    pub(crate) async fn complaints(&mut self) -> Vec<String> {
        // The answer comes after what was said before it.
        self.eval("0").await;
        std::mem::take(&mut self.complaints)
    }

    async fn event(&mut self, name: &str) {
        let waiting = async {
            loop {
                if let Some(event) = self.events.pop_front() {
                    if event["method"] == name {
                        break;
                    }
                } else {
                    let message = self.receive().await;
                    self.note(message);
                }
            }
        };
        timeout(HANG, waiting).await.unwrap_or_else(|_| panic!("{name} has not come"));
    }

    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        self.events.clear();
        let calling = async {
            self.input.write_all(format!("{message}\0").as_bytes()).await.unwrap();
            loop {
                let mut answer = self.receive().await;
                if answer["id"] == self.calls {
                    assert!(answer.get("error").is_none(), "{method}: {answer}");
                    break answer["result"].take();
                }
                self.note(answer);
            }
        };
        timeout(HANG, calling).await.unwrap_or_else(|_| panic!("{method} hangs"))
    }

    fn note(&mut self, event: Value) {
        let params = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown" | "Log.entryAdded") => {
                self.complaints.push(params.to_string());
            }
            Some("Runtime.consoleAPICalled") if params["type"] != "log" => {
                self.complaints.push(params.to_string());
            }
            _ => {}
        }
        self.events.push_back(event);
    }

    async fn receive(&mut self) -> Value {
        let mut message = Vec::new();
        self.output.read_until(0, &mut message).await.unwrap();
        if message.pop().is_none() {
            let status = self.process.wait().await;
            let words = fs::read_to_string(self.profile.path().join("stderr")).unwrap_or_default();
            panic!("chromium ended, {status:?}:\n{words}");
        }
        serde_json::from_slice(&message).unwrap()
    }
}
