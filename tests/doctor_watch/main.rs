//! `redis-guard watch`, the built binary, against real servers.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../doctor/fake.rs"]
mod fake;

mod fleets;
mod live;
mod once;
mod program;
mod terminal;

/// How CLIENT LIST shows the watch.
const NAME: &str = "redis-guard:doctor";
