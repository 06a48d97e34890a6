//! Pools on a cluster, on real nodes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../waiting/mod.rs"]
mod waiting;

mod launcher;
