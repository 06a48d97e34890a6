//! A master, two replicas and three sentinels, and what they count of the clients.

use std::collections::HashSet;

use crate::Failure;
use crate::sentinel::{SentinelSet, Switch, Switches};
use crate::server::{Reply, TestServer};

/// The user the clients log in as. Sentinels and replicas do not log in, and we use another one: what
/// is counted under this name is the clients'.
pub(crate) const USER: &str = "app";
pub(crate) const PASSWORD: &str = "secret";

/// How often sentinels speak to each other. For four times as long an old master may say that it is
/// one still, before they turn it into a replica. Their own default, and for those in a hurry.
const PUBLISH_MS: u32 = 2_000;
const PUBLISH_QUICK_MS: u32 = 500;

pub(crate) struct Set {
    // Before the processes they listen to.
    switches: Switches,
    set: SentinelSet,
    servers: Vec<Seen>,
    /// Connections each sentinel had accepted before there was a client: the others', and ours.
    before: Vec<u64>,
}

/// A data server.
#[derive(Clone, Copy)]
struct Seen {
    at_work: bool,
    /// Dials of the clients that it has accepted, as last seen: a dead one tells nothing, a stopped
    /// one later.
    accepted: u64,
}

/// What is counted of the clients.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Dials that the data servers accepted, since the start.
    pub(crate) accepted: u64,
    /// The most connections that one data server holds now.
    pub(crate) slots: u64,
    /// Dials that the sentinels accepted, since the start.
    pub(crate) sentinel_dials: u64,
    /// The most connections that one sentinel holds now.
    pub(crate) sentinel_slots: u64,
}

impl Set {
    /// Starts everything, and returns when everybody knows everybody.
    pub(crate) fn start(quick: bool) -> Result<Self, Failure> {
        let set = SentinelSet::builder()
            .server(TestServer::builder().acl_user(USER, PASSWORD))
            .sentinel(TestServer::builder().acl_user(USER, PASSWORD))
            .watchful()
            .publish_period_ms(if quick { PUBLISH_QUICK_MS } else { PUBLISH_MS })
            .start()?;
        let switches = set.switches();
        let servers = vec![Seen { at_work: true, accepted: 0 }; set.servers().len()];
        let before = sentinels(&set).map(received).collect::<Result<_, _>>()?;
        Ok(Self { switches, set, servers, before })
    }

    pub(crate) fn sentinel_urls(&self) -> Vec<String> {
        let url = |port| format!("redis://{USER}:{PASSWORD}@127.0.0.1:{port}");
        sentinels(&self.set).map(|sentinel| url(sentinel.port())).collect()
    }

    /// The master, once all agree on it and follow it.
    pub(crate) fn master(&self) -> usize {
        self.set.until_whole();
        self.set.master()
    }

    /// Asks a sentinel for a failover, as an operator does before maintenance.
    pub(crate) fn fail_over(&self) {
        self.set.fail_over();
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, server: usize) {
        self.lose(server);
        self.set.server(server).crash();
    }

    /// SIGSTOP: the kernel still accepts connections, nobody answers.
    pub(crate) fn freeze(&mut self, server: usize) {
        self.lose(server);
        self.set.server(server).pause();
    }

    /// SIGCONT.
    pub(crate) fn wake(&mut self, server: usize) {
        self.set.server(server).resume();
        self.servers[server].at_work = true;
    }

    /// Whether it is a replica that is in step with its master.
    pub(crate) fn follows(&self, server: usize) -> bool {
        let replication = text(self.set.server(server), &["INFO", "replication"]);
        replication.is_some_and(|info| info.contains("master_link_status:up"))
    }

    /// What the sentinels have said since so many words.
    pub(crate) fn words_since(&self, count: usize) -> Vec<Switch> {
        self.switches.heard().split_off(count)
    }

    pub(crate) fn counts(&mut self) -> Result<Counts, Failure> {
        let slots = (0..self.servers.len()).map(|server| self.look_at(server)).max();
        let mut counts = Counts {
            accepted: self.servers.iter().map(|server| server.accepted).sum(),
            slots: slots.unwrap_or(0),
            ..Counts::default()
        };
        for (sentinel, before) in sentinels(&self.set).zip(&self.before) {
            counts.sentinel_dials += received(sentinel)?.saturating_sub(*before);
            counts.sentinel_slots = counts.sentinel_slots.max(connections(sentinel));
        }
        Ok(counts)
    }

    /// Everything that was written and that this server has.
    pub(crate) fn keys(&self, server: usize) -> Result<HashSet<String>, Failure> {
        match self.set.server(server).admin().command(&["KEYS", "*"])? {
            Reply::Array(keys) => Ok(keys.iter().map(Reply::text).collect()),
            other => Err(format!("KEYS: {}", other.text()).into()),
        }
    }

    /// Takes in how many dials it has accepted; returns how many connections the clients hold there.
    fn look_at(&mut self, server: usize) -> u64 {
        let Seen { at_work: true, accepted } = &mut self.servers[server] else { return 0 };
        let server = self.set.server(server);
        // Every dial logs in once. There is no answer where a sentinel has just closed all connections
        // of a demoted server, ours too.
        if let Some(stats) = text(server, &["INFO", "commandstats"])
            && let Some(logins) = field(&stats, "cmdstat_auth:calls=")
        {
            *accepted = logins;
        }
        connections(server)
    }

    /// The last look at it.
    fn lose(&mut self, server: usize) {
        self.look_at(server);
        self.servers[server].at_work = false;
    }
}

fn sentinels(set: &SentinelSet) -> impl Iterator<Item = &TestServer> {
    (0..set.sentinels().len()).map(|nth| set.sentinel(nth))
}

/// Connections that a sentinel has accepted so far, whoever's.
fn received(sentinel: &TestServer) -> Result<u64, Failure> {
    let stats = text(sentinel, &["INFO", "stats"]).ok_or("a sentinel does not answer")?;
    let count = field(&stats, "total_connections_received:");
    Ok(count.ok_or("INFO has no total_connections_received")?)
}

/// How many connections the clients hold.
fn connections(server: &TestServer) -> u64 {
    let user = format!(" user={USER} ");
    let list = text(server, &["CLIENT", "LIST"]).unwrap_or_default();
    list.lines().filter(|client| client.contains(&user)).count() as u64
}

fn field(info: &str, name: &str) -> Option<u64> {
    let value = info.lines().find_map(|line| line.strip_prefix(name))?;
    value.split(',').next()?.trim().parse().ok()
}

fn text(server: &TestServer, command: &[&str]) -> Option<String> {
    server.admin().command(command).ok().map(|reply| reply.text())
}
