//! The server under test: one of our own, or the user's.

use std::net::IpAddr;
use std::time::Duration;

use redis::{Client, Connection, ConnectionAddr, InfoDict};
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::args::Args;
use crate::bystander::Bystander;
use crate::server::{StartError, TestServer};

/// The most slots of a user's server that we are prepared to fill, one connection each.
const MOST_SLOTS: u64 = 4_000;
/// How long the server may take to forget the connections of a client that is gone.
const FORGET_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct Target {
    pub(crate) url: String,
    pub(crate) maxclients: u64,
    client: Client,
    /// Opened first and kept, so that it works while the server is full.
    admin: Connection,
    pub(crate) bystander: Bystander,
    /// Slots in use while no client under test is running.
    baseline: u64,
    /// Refused dials of our own, which are no client's fault.
    refused_ourselves: u64,
    /// Stopped on drop.
    own: Option<TestServer>,
}

/// Connections that nobody uses and nobody closes: dropping them frees the slots.
pub(crate) struct Leaked {
    _connections: Vec<Connection>,
}

impl Target {
    pub(crate) fn open(args: &Args) -> Result<Self, Failure> {
        let (url, own) = match &args.url {
            Some(url) => {
                on_this_machine(url)?;
                (url.clone(), None)
            }
            None => {
                let server = TestServer::builder().maxclients(args.maxclients).start().map_err(
                    |e| match e {
                        StartError::NotInstalled { .. } => {
                            format!("{e}, or name a running one with --url redis://127.0.0.1:6379")
                                .into()
                        }
                        _ => Failure::from(e),
                    },
                )?;
                (server.url(), Some(server))
            }
        };
        let client = Client::open(url.as_str())?;
        let admin = client.get_connection_with_timeout(Duration::from_secs(2)).map_err(|e| {
            format!("cannot connect to {}: {e}", client.get_connection_info().addr())
        })?;
        let others = client.get_connection_with_timeout(Duration::from_secs(2))?;
        for connection in [&admin, &others] {
            connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        }
        let bystander = Bystander::start(others);
        let (maxclients, baseline, refused_ourselves) = (0, 0, 0);
        let mut target =
            Self { url, maxclients, client, admin, bystander, baseline, refused_ourselves, own };
        target.maxclients = field(&target.info()?, "maxclients")
            .ok_or("the server does not tell its maxclients (INFO has it since Redis 6.2)")?;
        target.baseline = target.used()?;

        let (slots, used) = (target.maxclients, target.baseline);
        if slots > MOST_SLOTS {
            return Err(format!(
                "the server has {slots} slots; this example holds them all, and stops at {MOST_SLOTS}. \
                 Use a server with fewer: redis-server --port 7777 --maxclients 64 --save ''"
            )
            .into());
        }
        if slots < used + (args.pools * args.pool_size()) as u64 {
            return Err(format!(
                "the server has {slots} slots and {used} are in use; {} do not fit",
                args.pools()
            )
            .into());
        }
        Ok(target)
    }

    pub(crate) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Connections refused so far, but for ours.
    pub(crate) fn refused(&mut self) -> Result<u64, Failure> {
        let all = field(&self.info()?, "rejected_connections")
            .ok_or("INFO has no rejected_connections")?;
        all.checked_sub(self.refused_ourselves)
            .ok_or_else(|| "the server was restarted during the run".into())
    }

    /// The processor time that the server has used so far, in seconds.
    pub(crate) fn cpu(&mut self) -> Result<f64, Failure> {
        let info = self.info()?;
        let of = |name| info.get::<f64>(name).unwrap_or(0.0);
        Ok(of("used_cpu_sys") + of("used_cpu_user"))
    }

    /// Takes every slot that is left.
    pub(crate) fn fill(&mut self) -> Result<Leaked, Failure> {
        let mut connections = Vec::new();
        // On a user's server others come and go, so one count may not be enough.
        for _ in 0..20 {
            let left = self.maxclients.saturating_sub(self.used()?);
            if left == 0 {
                return Ok(Leaked { _connections: connections });
            }
            for _ in 0..left {
                match self.client.get_connection_with_timeout(Duration::from_secs(2)) {
                    Ok(connection) => connections.push(connection),
                    Err(_) if self.used()? >= self.maxclients => self.refused_ourselves += 1,
                    Err(e) => {
                        return Err(
                            format!("cannot take the server's last {left} slots: {e}").into()
                        );
                    }
                }
            }
        }
        Err("could not fill the server: its other clients come and go too fast".into())
    }

    /// Waits until the server has forgotten the last client's connections.
    pub(crate) async fn emptied(&mut self, of: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + FORGET_WITHIN;
        loop {
            let used = self.used()?;
            if used <= self.baseline {
                return Ok(());
            }
            if Instant::now() > deadline {
                if self.is_own() {
                    return Err(format!(
                        "{} connections of {of} are still open {FORGET_WITHIN:?} after it was dropped",
                        used - self.baseline
                    )
                    .into());
                }
                eprintln!(
                    "{} more connections than before; taking them for somebody else's",
                    used - self.baseline
                );
                self.baseline = used;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Deletes the keys the tasks wrote.
    pub(crate) fn clean_up(&mut self, tasks: usize) -> Result<(), Failure> {
        let keys: Vec<String> = (0..tasks).map(key).collect();
        Ok(redis::cmd("DEL").arg(keys).exec(&mut self.admin)?)
    }

    /// Slots in use, as the server counts when it decides whom to refuse.
    fn used(&mut self) -> Result<u64, Failure> {
        let info = self.info()?;
        let clients = field(&info, "connected_clients").ok_or("INFO has no connected_clients")?;
        let of = |name| field(&info, name).unwrap_or(0);
        Ok(clients + of("connected_slaves") + of("cluster_connections"))
    }

    fn info(&mut self) -> Result<InfoDict, Failure> {
        Ok(redis::cmd("INFO").query(&mut self.admin).map_err(|e| format!("INFO: {e}"))?)
    }
}

/// The key a task works on.
pub(crate) fn key(task: usize) -> String {
    format!("redis-guard:retry_storm:{task}")
}

fn field(info: &InfoDict, name: &str) -> Option<u64> {
    info.get(name)
}

/// A server whose every slot is about to be taken has to be the user's own.
fn on_this_machine(url: &str) -> Result<(), Failure> {
    let client = Client::open(url).map_err(|e| format!("--url: {e}"))?;
    let host = match client.get_connection_info().addr() {
        ConnectionAddr::Unix(_) => return Ok(()),
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
        other => return Err(format!("--url: {other} is not supported").into()),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let loopback = bare == "localhost" || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if loopback {
        Ok(())
    } else {
        Err(format!("--url: {host} is not this machine, and nobody else's slots are to be taken")
            .into())
    }
}
