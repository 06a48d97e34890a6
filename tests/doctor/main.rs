//! `redis-guard doctor` on real servers: each with one thing wrong, or nothing.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../support/mod.rs"]
mod support;

mod run;

mod bad_input;
mod blocked;
mod ceiling;
mod cluster;
mod conduct;
mod denied;
mod fake;
mod fleets;
mod full;
mod generated;
mod healthy;
mod internal;
mod leak;
mod library;
mod many;
mod oversized;
mod reachability;
mod replication;
mod sentinel;
mod sentinel_fake;
mod settings;
mod stopped;
mod storm;
mod strange;
mod tls;
mod unused;

use std::collections::HashMap;
use std::time::Duration;

use support::TestServer;
use support::server::{TestServerBuilder, poll};

/// A server that lets clients in from any address of 127.0.0.0/8: to its protected mode all but
/// 127.0.0.1 are strangers.
fn server() -> TestServerBuilder {
    TestServer::builder().arg("protected-mode", "no")
}

/// Far above anything that a test waits for: it ends one that would otherwise hang.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// Returns when the server says that whoever comes from these addresses has been idle for so long.
#[track_caller]
fn until_idle(server: &TestServer, sources: &[String], seconds: u64) {
    until(server, |clients| {
        sources.iter().all(|source| {
            let mut of = clients.iter().filter(|client| comes_from(client, source));
            of.all(|client| idle(client) >= seconds)
        })
    });
}

/// The same for so many of each.
#[track_caller]
fn until_idle_in_each(server: &TestServer, sources: &[String], seconds: u64, count: usize) {
    until(server, |clients| {
        sources.iter().all(|source| {
            let of = clients.iter().filter(|client| comes_from(client, source));
            of.filter(|client| idle(client) >= seconds).count() >= count
        })
    });
}

#[track_caller]
fn until(server: &TestServer, so: impl Fn(&[HashMap<String, String>]) -> bool) {
    let seen = poll(IDLE_LIMIT, || so(&server.admin().client_list()).then_some(()));
    seen.unwrap_or_else(|| panic!("not idle: {:?}", server.admin().client_list()));
}

/// Returns when the doctor has looked once, and waits for its second look.
#[track_caller]
fn until_it_waits(server: &TestServer) {
    until(server, |clients| {
        // Between two PINGs of its first look nothing but the machine is slow.
        let waits = |client: &HashMap<String, String>| client["cmd"] != "ping" && idle(client) >= 2;
        clients.iter().any(|client| client["name"] == run::OWN_NAME && waits(client))
    });
}

fn comes_from(client: &HashMap<String, String>, source: &str) -> bool {
    client["addr"].split_once(':').is_some_and(|(host, _)| host == source)
}

fn idle(client: &HashMap<String, String>) -> u64 {
    client["idle"].parse().expect("a number")
}
