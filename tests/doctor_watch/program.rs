//! The program as a child process.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::support::server::poll;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_redis-guard");

/// Far above anything a test waits for.
const HANG: Duration = Duration::from_secs(60);

pub(crate) fn watch(args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("watch").args(args).stdin(Stdio::null());
    for variable in ["NO_COLOR", "REDIS_URL", "REDISCLI_AUTH", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command
}

/// Runs it to its end.
#[track_caller]
pub(crate) fn run(args: &[&str]) -> Output {
    let child = watch(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let (sender, output) = channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let output = output.recv_timeout(HANG);
    output.unwrap_or_else(|_| panic!("{args:?} should have ended, process {pid}")).unwrap()
}

#[track_caller]
pub(crate) fn json(args: &[&str]) -> (i32, Value) {
    let output = run(&[args, &["--once", "--output", "json"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    (output.status.code().unwrap(), value)
}

#[track_caller]
pub(crate) fn text(args: &[&str]) -> (i32, String) {
    let output = run(&[args, &["--once"]].concat());
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// A watch that goes on; killed on drop.
pub(crate) struct Live {
    child: Child,
    lines: Receiver<String>,
    seen: String,
}

impl Live {
    /// One line of JSON an interval.
    pub(crate) fn json(args: &[&str]) -> Self {
        let mut command = watch(&[args, &["--output", "json"]].concat());
        Self::of(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Its output, line by line.
    pub(crate) fn of(mut child: Child) -> Self {
        let (sender, lines) = channel();
        let reader = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            reader.lines().map_while(Result::ok).try_for_each(|it| sender.send(it))
        });
        Self { child, lines, seen: String::new() }
    }

    /// Its output, as it comes.
    pub(crate) fn raw(mut child: Child) -> Self {
        let (sender, lines) = channel();
        let mut stdout = child.stdout.take().unwrap();
        thread::spawn(move || {
            let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(read @ 1..) = stdout.read(&mut buffer) {
                kept.extend_from_slice(&buffer[..read]);
                // A character that is not complete yet waits for its end.
                let whole = match std::str::from_utf8(&kept) {
                    Ok(text) => text.len(),
                    Err(error) => error.valid_up_to(),
                };
                let rest = kept.split_off(whole);
                let text = String::from_utf8(std::mem::replace(&mut kept, rest));
                if sender.send(text.unwrap_or_default()).is_err() {
                    break;
                }
            }
        });
        Self { child, lines, seen: String::new() }
    }

    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(HANG).expect("a line in time")
    }

    /// The next frame.
    #[track_caller]
    pub(crate) fn frame(&self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }

    /// The next frame whose first server is so.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = poll(HANG, || {
            last = self.frame()["servers"][0].take();
            is_so(&last).then(|| last.clone())
        });
        found.unwrap_or_else(|| panic!("{what} should have come: {last:#}"))
    }

    /// All that has come since the start, once it is so.
    #[track_caller]
    pub(crate) fn until_output(&mut self, what: &str, is_so: impl Fn(&str) -> bool) -> &str {
        let found = poll(HANG, || {
            if let Ok(piece) = self.lines.recv_timeout(Duration::from_millis(100)) {
                self.seen += &piece;
            }
            is_so(&self.seen).then_some(())
        });
        assert!(found.is_some(), "{what} should have come: {:?}", self.seen);
        &self.seen
    }

    /// All that it wrote until it ended.
    #[track_caller]
    pub(crate) fn until_its_end(&mut self) -> (Option<i32>, String) {
        let code = self.ended().code();
        self.seen.extend(self.lines.iter());
        (code, std::mem::take(&mut self.seen))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends bytes to its standard input.
    pub(crate) fn press(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    pub(crate) fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.pid());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    #[track_caller]
    pub(crate) fn ended(&mut self) -> std::process::ExitStatus {
        poll(HANG, || self.child.try_wait().unwrap()).expect("it should have ended")
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
