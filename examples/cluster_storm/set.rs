//! Three masters with a replica each, and what they count of the clients.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::cluster::Cluster;
use crate::server::{TestServer, poll};

const MASTERS: u32 = 3;
/// The master that will have no room: not the first, whom clients may ask more than the others.
const FULL: usize = 1;
/// For the replicas to be known to everybody, and in step.
const WHOLE_LIMIT: Duration = Duration::from_secs(30);
/// How long a server may take to forget the connections of a client that is gone.
const FORGET_WITHIN: Duration = Duration::from_secs(10);

pub(crate) struct Set {
    // Before the masters: they are not to vote for a new one while all end.
    replicas: Vec<TestServer>,
    masters: Cluster,
    /// What it had before it was lowered.
    maxclients: u32,
}

/// What a node counts of the clients.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Dials refused, since it was started.
    pub(crate) refused: u64,
    /// Connections that the clients hold now.
    pub(crate) sockets: u64,
}

impl Set {
    /// Starts everything, and returns when everybody knows everybody.
    pub(crate) fn start() -> Result<Self, Failure> {
        let settings = TestServer::builder().in_memory(true).arg("repl-diskless-sync-delay", "0");
        let masters = Cluster::start(MASTERS, &settings)?;
        let replicas = (0..MASTERS).map(|_| settings.clone().cluster(true).start());
        let replicas = replicas.collect::<Result<Vec<_>, _>>()?;
        let maxclients = u32::try_from(masters.nodes()[FULL].admin().maxclients())?;
        let set = Self { replicas, masters, maxclients };
        set.join()?;
        Ok(set)
    }

    /// Every replica meets the masters, and follows its own.
    fn join(&self) -> Result<(), Failure> {
        let masters = self.masters.nodes();
        let (port, bus) = (masters[0].port().to_string(), masters[0].bus_port().to_string());
        for replica in &self.replicas {
            replica.admin().text(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
        for (master, replica) in masters.iter().zip(&self.replicas) {
            let id = master.admin().text(&["CLUSTER", "MYID"]);
            // An error for as long as it does not know that master.
            let follows = || {
                let reply = replica.admin().command(&["CLUSTER", "REPLICATE", &id]).ok()?;
                (!reply.is_error()).then_some(())
            };
            poll(WHOLE_LIMIT, follows).ok_or("a replica does not find its master")?;
        }
        let links = self.replicas.len();
        for node in self.nodes() {
            let whole = || {
                let known = node.admin().text(&["CLUSTER", "NODES"]);
                let of = |word: &str| known.lines().filter(|line| line.contains(word)).count();
                let all = of("slave ") == links && of(" connected") == 2 * links && of("fail") == 0;
                let replication = node.admin().text(&["INFO", "replication"]);
                let linked = replication.contains("master_link_status:up")
                    || replication.contains("state=online");
                (all && linked).then_some(())
            };
            poll(WHOLE_LIMIT, whole).ok_or("the nodes of the cluster do not find each other")?;
        }
        Ok(())
    }

    /// The masters, then their replicas.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &TestServer> {
        self.masters.nodes().iter().chain(&self.replicas)
    }

    /// As the cluster announces them, in the order of [`nodes`](Self::nodes).
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes().map(|node| format!("127.0.0.1:{}", node.port())).collect()
    }

    /// What the clients are told: the masters.
    pub(crate) fn urls(&self) -> Vec<String> {
        self.masters.urls()
    }

    /// The full one, as its place in [`nodes`](Self::nodes).
    pub(crate) const fn full(&self) -> usize {
        FULL
    }

    /// A key of a task on each master, in the order of [`nodes`](Self::nodes).
    pub(crate) fn keys(&self, task: usize) -> Result<Vec<String>, Failure> {
        let masters = self.masters.nodes().iter();
        let key = |(nth, master): (usize, &TestServer)| {
            for number in 0_u32.. {
                let key = format!("cluster_storm:{task}:{nth}:{number}");
                // It would be sent elsewhere with an error.
                if !master.admin().command(&["EXISTS", &key])?.is_error() {
                    return Ok(key);
                }
            }
            Err("every master has a slot of some key".into())
        };
        masters.enumerate().map(|(nth, master)| key((nth, master))).collect()
    }

    /// No slot is left, and the clients' connections are cut.
    pub(crate) fn fill(&self) -> Result<(), Failure> {
        let node = &self.masters.nodes()[FULL];
        let others = clients(node)?.lines().filter(|line| !is_theirs(line)).count();
        // The links to other nodes count as well, so this is less than what others hold.
        node.admin().set_maxclients(u32::try_from(others)?);
        node.admin().text(&["CLIENT", "KILL", "TYPE", "normal"]);
        Ok(())
    }

    pub(crate) fn free(&self) {
        self.masters.nodes()[FULL].admin().set_maxclients(self.maxclients);
    }

    /// Of each node, in the order of [`nodes`](Self::nodes).
    pub(crate) fn counts(&self) -> Result<Vec<Counts>, Failure> {
        self.nodes().map(counts).collect()
    }

    /// Waits until the nodes have forgotten the last client's connections.
    pub(crate) async fn emptied(&self, of: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + FORGET_WITHIN;
        loop {
            let left: u64 = self.counts()?.iter().map(|node| node.sockets).sum();
            if left == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "{left} connections of {of} are still open {FORGET_WITHIN:?} after it was dropped"
                )
                .into());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

fn counts(node: &TestServer) -> Result<Counts, Failure> {
    let stats = text(node, &["INFO", "stats"])?;
    let refused = stats.lines().find_map(|line| line.strip_prefix("rejected_connections:"));
    Ok(Counts {
        refused: refused.ok_or("INFO has no rejected_connections")?.trim().parse()?,
        sockets: clients(node)?.lines().filter(|line| is_theirs(line)).count() as u64,
    })
}

fn clients(node: &TestServer) -> Result<String, Failure> {
    text(node, &["CLIENT", "LIST"])
}

/// Not the link to a master or a replica, and not ours, which goes over a Unix socket.
fn is_theirs(client: &str) -> bool {
    let flags = client.split(' ').find_map(|field| field.strip_prefix("flags="));
    !flags.is_some_and(|flags| flags.contains(['M', 'S', 'U']))
}

fn text(node: &TestServer, command: &[&str]) -> Result<String, Failure> {
    Ok(node.admin().command(command).map_err(|e| format!("{}: {e}", command.join(" ")))?.text())
}
