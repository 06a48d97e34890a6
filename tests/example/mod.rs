//! The example service, a process of its own.
#![allow(dead_code, reason = "every test uses its own part of it")]

use std::io::{BufRead as _, BufReader, Lines};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::client::Client;
use crate::support::TestServer;
use crate::support::examples::built;
use crate::waiting::{HANG, soon};

/// How its connections are called in `CLIENT LIST`.
pub(crate) const NAME: &str = "redis-guard:axum_service";

pub(crate) fn program() -> PathBuf {
    built("axum_service", "axum")
}

pub(crate) struct Service {
    process: Child,
    /// Open for as long as the service may print.
    _output: Lines<BufReader<ChildStdout>>,
    pub(crate) clients: SocketAddr,
    pub(crate) operators: SocketAddr,
}

impl Service {
    /// With a connection for each lease.
    pub(crate) fn start(redis: &str) -> Self {
        Self::start_at(redis, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// With its operators at an address that an earlier one had.
    pub(crate) fn start_at(redis: &str, operators: SocketAddr) -> Self {
        Self::start_with(&["--redis", redis, "--admin", &operators.to_string(), "--exclusive"])
    }

    /// As it comes: leases share one connection.
    pub(crate) fn start_sharing(redis: &str) -> Self {
        Self::start_with(&["--redis", redis, "--admin", "127.0.0.1:0"])
    }

    fn start_with(args: &[&str]) -> Self {
        let mut process = Command::new(program())
            .args(["--listen", "127.0.0.1:0"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut address = || {
            let line = lines.next().expect("the service ended at once").unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        let (clients, operators) = (address(), address());
        Self { process, _output: lines, clients, operators }
    }

    pub(crate) async fn status(&self) -> Value {
        let page = Client::connect(self.operators).await.get("/status").await;
        serde_json::from_str(&page.body).unwrap()
    }

    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        let mut last = Value::Null;
        let looking = async {
            while !is_so(&last) {
                last = self.status().await;
            }
        };
        let seen = timeout(HANG, looking).await;
        assert!(seen.is_ok(), "{what} should have come to be, but: {last:#}");
    }

    pub(crate) fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.process.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    pub(crate) async fn end(&mut self) -> ExitStatus {
        let ending = async {
            loop {
                match self.process.try_wait().unwrap() {
                    Some(status) => break status,
                    None => sleep(Duration::from_millis(5)).await,
                }
            }
        };
        soon("the service", ending).await
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Leaves the service so many connections, and the server no free slot.
pub(crate) fn squeeze(server: &TestServer, leave: usize) {
    let admin = server.admin();
    let clients = admin.client_list();
    let service = clients.iter().filter(|client| client["name"] == NAME);
    let surplus: Vec<_> = service.skip(leave).collect();
    // First, so that none of them can be dialed again.
    admin.set_maxclients(u32::try_from(clients.len() - surplus.len()).unwrap());
    for client in surplus {
        admin.text(&["CLIENT", "KILL", "ID", &client["id"]]);
    }
}
