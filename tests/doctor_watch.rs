//! `redis-guard watch`, the built binary, against real servers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "doctor_watch/program.rs"]
mod program;
mod support;

#[path = "doctor_watch/fleets.rs"]
mod fleets;
#[path = "doctor_watch/live.rs"]
mod live;
#[path = "doctor_watch/once.rs"]
mod once;
#[path = "doctor_watch/terminal.rs"]
mod terminal;

/// How CLIENT LIST shows the watch.
const NAME: &str = "redis-guard:doctor";
