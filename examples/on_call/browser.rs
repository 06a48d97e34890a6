//! Chromium over its DevTools protocol, on a pipe: as much of it as pictures need. One message is one
//! JSON text and a NUL.

use std::process::{self, Stdio};
use std::time::Duration;
use std::{fs, thread};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{sleep, timeout};

use crate::Failure;
use crate::chromium::{FLAGS, SHELL, find, from_base64};

/// Far above what anything takes, on a machine that has other things to do.
const HANG: Duration = Duration::from_secs(30);
/// How often a hundredth of a second is waited for one that has been killed.
const GONE_TRIES: usize = 200;

/// One browser with one tab; it ends when dropped.
pub(crate) struct Browser {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    session: String,
    calls: u64,
    profile: TempDir,
}

/// How the page is looked at, in CSS pixels.
#[derive(Clone, Copy)]
pub(crate) struct View {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) scale: f64,
    pub(crate) phone: bool,
    pub(crate) dark: bool,
}

impl Browser {
    /// # Errors
    /// There is none, or it does not start.
    pub(crate) async fn start() -> Result<Self, Failure> {
        let program = find().ok_or(
            "--screenshots needs Chromium (Debian and Ubuntu: apt-get install chromium), or its path in $CHROMIUM",
        )?;
        let profile = tempfile::Builder::new().prefix("redis-guard-on-call-").tempdir()?;
        let mut process = Command::new("sh")
            .args(["-c", SHELL])
            .arg(&program)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(FLAGS)
            .env("HOME", profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(profile.path().join("stderr"))?)
            // A group of its own: a Ctrl-C is for us, and all of it can be ended at once.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let (Some(input), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("chromium without pipes".into());
        };
        let output = BufReader::new(output);
        let mut browser =
            Self { process, input, output, session: String::new(), calls: 0, profile };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach).await?;
        session["sessionId"].as_str().unwrap_or_default().clone_into(&mut browser.session);
        Ok(browser)
    }

    /// Returns when the page is there.
    pub(crate) async fn open(&mut self, url: &str) -> Result<(), Failure> {
        let navigated = self.call("Page.navigate", json!({"url": url})).await?;
        if let Some(error) = navigated["errorText"].as_str() {
            return Err(format!("{url}: {error}").into());
        }
        let loaded = async {
            while self.eval("document.readyState").await? != "complete" {
                sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        timeout(HANG, loaded).await.map_err(|_| format!("{url} does not load"))?
    }

    pub(crate) async fn look(&mut self, view: View) -> Result<(), Failure> {
        let View { width, height, scale, phone, dark } = view;
        let metrics = json!(
            {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}
        );
        self.call("Emulation.setDeviceMetricsOverride", metrics).await?;
        let scheme = if dark { "dark" } else { "light" };
        let feature = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", feature).await?;
        Ok(())
    }

    /// The value of an expression.
    pub(crate) async fn eval(&mut self, expression: &str) -> Result<Value, Failure> {
        let evaluate = json!({"expression": expression, "returnByValue": true});
        let mut answer = self.call("Runtime.evaluate", evaluate).await?;
        Ok(answer["result"]["value"].take())
    }

    /// A PNG of the page from its corner, so large in CSS pixels.
    pub(crate) async fn picture(&mut self, width: f64, height: f64) -> Result<Vec<u8>, Failure> {
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
        let capture = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let picture = self.call("Page.captureScreenshot", capture).await?;
        Ok(from_base64(picture["data"].as_str().ok_or("chromium took no picture")?))
    }

    /// Ends it, and returns when it has.
    pub(crate) async fn close(mut self) -> Result<(), Failure> {
        self.session.clear();
        // It may be gone before it has answered.
        let _ = self.call("Browser.close", json!({})).await;
        timeout(HANG, self.process.wait()).await.map_err(|_| "chromium does not end")??;
        Ok(())
    }

    async fn call(&mut self, method: &str, params: Value) -> Result<Value, Failure> {
        self.calls += 1;
        let mut message = json!({"id": self.calls, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        let calling = async {
            self.input.write_all(format!("{message}\0").as_bytes()).await?;
            loop {
                let mut bytes = Vec::new();
                self.output.read_until(0, &mut bytes).await?;
                if bytes.pop().is_none() {
                    let said = fs::read_to_string(self.profile.path().join("stderr"));
                    return Err(format!("chromium ended:\n{}", said.unwrap_or_default()).into());
                }
                let mut answer: Value = serde_json::from_slice(&bytes)?;
                // The rest are events, which nobody waits for.
                if answer["id"] == self.calls {
                    return match answer.get("error") {
                        Some(error) => Err(format!("{method}: {error}").into()),
                        None => Ok(answer["result"].take()),
                    };
                }
            }
        };
        timeout(HANG, calling).await.map_err(|_| format!("{method} hangs"))?
    }
}

impl Drop for Browser {
    /// What is left of it would go on writing into its profile while that is removed.
    fn drop(&mut self) {
        let Some(group) = self.process.id() else { return };
        let kill = format!("kill -KILL -{group}");
        let _ = process::Command::new("sh").args(["-c", &kill]).stderr(Stdio::null()).status();
        for _ in 0..GONE_TRIES {
            let ended = !matches!(self.process.try_wait(), Ok(None));
            if ended && fs::remove_dir_all(self.profile.path()).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}
