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
const HANG: Duration = Duration::from_secs(30);

pub(crate) fn watch(args: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("watch").args(args).stdin(Stdio::null());
    for variable in ["NO_COLOR", "REDISCLI_AUTH", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command
}

/// Runs it to its end.
#[track_caller]
pub(crate) fn run(args: &[&str]) -> Output {
    let child = watch(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut live = Live { child, lines: None };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut pipe = live.child.stdout.take().unwrap();
    let reader = thread::spawn(move || {
        pipe.read_to_end(&mut stdout).unwrap();
        stdout
    });
    let mut errors = live.child.stderr.take().unwrap();
    let error_reader = thread::spawn(move || {
        errors.read_to_end(&mut stderr).unwrap();
        stderr
    });
    let status = live.ended();
    Output { status, stdout: reader.join().unwrap(), stderr: error_reader.join().unwrap() }
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
    lines: Option<Receiver<String>>,
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
        Self { child, lines: Some(lines) }
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
        Self { child, lines: Some(lines) }
    }

    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.lines.as_ref().unwrap().recv_timeout(HANG).expect("a line in time")
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

    /// All that has come, once it is so.
    #[track_caller]
    pub(crate) fn until_output(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let mut seen = String::new();
        while !is_so(&seen) {
            let piece = self.lines.as_ref().unwrap().recv_timeout(HANG);
            seen += &piece.unwrap_or_else(|_| panic!("{what} should have come: {seen:?}"));
        }
        seen
    }

    /// What is left to read once it has ended.
    pub(crate) fn remaining(&self) -> String {
        self.lines.as_ref().unwrap().iter().collect()
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
