//! Other pools' names over a guarded pool, on real servers. Whole services are in `tests/migration`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../waiting/mod.rs"]
mod waiting;

mod bb8;
mod deadpool_redis;
mod inherited;
