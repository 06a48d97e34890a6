//! What is done to the servers, and undone.

use std::time::Duration;

use crate::cluster::slot_of;
use crate::operator::Hold;
use crate::pools::Pools;
use crate::server::TestServer;
use crate::servers::{MAXCLIENTS, NODE_MAXCLIENTS, OTHER_PASSWORD, PASSWORD, Servers, USER};
use crate::tally::Topology;
use crate::work::key;

/// One fault: what, to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) topology: Topology,
    pub(crate) name: &'static str,
    strike: fn(&Stage<'_>),
}

/// What a fault is done with.
pub(crate) struct Stage<'a> {
    pub(crate) servers: &'a Servers,
    pub(crate) single: &'a Pools,
    pub(crate) hold: &'a Hold,
    /// What the fault chooses by, a server say.
    pub(crate) dice: u64,
}

impl Fault {
    pub(crate) fn title(&self) -> String {
        format!("{}: {}", self.topology.as_str(), self.name)
    }

    /// Does it, and undoes it. All servers are at work again when this returns.
    ///
    /// # Panics
    /// If the servers do not come to that within a minute.
    pub(crate) fn strike(&self, stage: &Stage<'_>) {
        (self.strike)(stage);
    }

    pub(crate) fn all() -> Vec<Self> {
        use Topology::{Cluster, Sentinel, Single};
        let fault = |topology, name, strike| Self { topology, name, strike };
        vec![
            fault(Single, "occupants fill maxclients", |s| s.fill()),
            fault(Single, "maxclients 2 and CLIENT KILL", |s| {
                s.fill_and_cut(&s.servers.single, MAXCLIENTS);
            }),
            fault(Single, "CONFIG SET maxclients lower, then higher", |s| s.resize()),
            fault(Single, "CLIENT KILL of all", |s| s.cut(&[&s.servers.single])),
            fault(Single, "SIGSTOP, SIGCONT", |s| s.freeze(&s.servers.single)),
            fault(Single, "kill -9 and a new start", |s| s.kill_single()),
            fault(Single, "CLIENT PAUSE ALL", |s| s.pause(&s.servers.single, "ALL")),
            fault(Single, "new password, known beforehand", |s| s.change_password()),
            fault(Single, "new password, known too late", |s| s.change_password_first()),
            fault(Sentinel, "SENTINEL FAILOVER", |s| s.fail_over_master()),
            fault(Sentinel, "CLIENT KILL of all", |s| s.cut(&s.servers.of(Sentinel))),
            fault(Sentinel, "SIGSTOP, SIGCONT of the master", |s| s.freeze_master()),
            fault(Sentinel, "kill -9 of the master", |s| s.kill_master()),
            fault(Sentinel, "CLIENT PAUSE WRITE", |s| s.pause_master()),
            fault(Sentinel, "kill -9 of a sentinel", |s| s.kill_sentinel()),
            fault(Sentinel, "SIGSTOP, SIGCONT of all sentinels", |s| s.freeze_sentinels()),
            fault(Cluster, "CLUSTER FAILOVER", |s| s.fail_over_node()),
            fault(Cluster, "kill -9 of a primary", |s| s.kill_node()),
            fault(Cluster, "SIGSTOP, SIGCONT of a primary", |s| s.freeze_node()),
            fault(Cluster, "slots move", |s| s.move_slots()),
            fault(Cluster, "CLIENT KILL of all", |s| s.cut(&s.servers.of(Cluster))),
            fault(Cluster, "maxclients 2 and CLIENT KILL at a primary", |s| {
                s.fill_and_cut(s.servers.cluster.node(s.primary()), NODE_MAXCLIENTS);
            }),
            fault(Cluster, "CLIENT PAUSE WRITE at a primary", |s| {
                s.pause(s.servers.cluster.node(s.primary()), "WRITE");
            }),
        ]
    }
}

impl Stage<'_> {
    fn hold(&self) {
        self.hold.hold();
    }

    fn fill(&self) {
        let mut occupants = self.servers.single.fill();
        self.hold.part(2);
        occupants.top_up();
        self.hold.part(2);
        occupants.free();
    }

    /// No slot is left, and nobody has one.
    fn fill_and_cut(&self, server: &TestServer, maxclients: u32) {
        server.admin().set_maxclients(2);
        cut(server);
        self.hold();
        server.admin().set_maxclients(maxclients);
    }

    fn resize(&self) {
        let admin = self.servers.single.admin();
        let used = u32::try_from(admin.used_slots()).unwrap_or(MAXCLIENTS);
        admin.set_maxclients(used.saturating_sub(4).max(2));
        self.hold.part(2);
        admin.set_maxclients(2 * MAXCLIENTS);
        self.hold.part(2);
        admin.set_maxclients(MAXCLIENTS);
    }

    fn cut(&self, servers: &[&TestServer]) {
        servers.iter().for_each(|server| cut(server));
        self.hold.part(4);
        servers.iter().for_each(|server| cut(server));
    }

    fn freeze(&self, server: &TestServer) {
        server.pause();
        self.hold();
        server.resume();
    }

    fn kill_single(&self) {
        self.servers.single.crash();
        self.hold();
        restart(&self.servers.single);
    }

    /// The operator waits like everybody.
    fn pause(&self, server: &TestServer, mode: &str) {
        let time = self.hold.time().as_millis().to_string();
        server.admin().text(&["CLIENT", "PAUSE", &time, mode]);
        self.hold();
        server.admin().text(&["CLIENT", "UNPAUSE"]);
    }

    /// The server knows both for a while; then the same the other way round.
    fn change_password(&self) {
        let admin = self.servers.single.admin();
        for (old, new) in [(PASSWORD, OTHER_PASSWORD), (OTHER_PASSWORD, PASSWORD)] {
            admin.text(&["ACL", "SETUSER", USER, &format!(">{new}")]);
            self.set_credentials(new);
            self.hold.part(2);
            admin.text(&["ACL", "SETUSER", USER, &format!("<{old}")]);
        }
    }

    /// The pools hear of it when nothing works any more.
    fn change_password_first(&self) {
        let server = &self.servers.single;
        let (old, new) = (format!("<{PASSWORD}"), format!(">{OTHER_PASSWORD}"));
        server.admin().text(&["ACL", "SETUSER", USER, &old, &new]);
        cut(server);
        self.hold.part(2);
        self.set_credentials(OTHER_PASSWORD);
        self.hold.part(2);
        // Back, without a gap: a server that is started again knows this one.
        server.admin().text(&["ACL", "SETUSER", USER, &format!(">{PASSWORD}")]);
        self.set_credentials(PASSWORD);
        server.admin().text(&["ACL", "SETUSER", USER, &format!("<{OTHER_PASSWORD}")]);
    }

    fn set_credentials(&self, password: &str) {
        self.single.all().for_each(|pool| pool.set_credentials(Some(USER), password));
    }

    fn fail_over_master(&self) {
        let set = &self.servers.set;
        let old = set.master();
        set.fail_over();
        set.moved_from(old);
        self.hold.part(2);
        set.until_whole();
    }

    fn freeze_master(&self) {
        let set = &self.servers.set;
        self.freeze(set.server(set.master()));
        set.until_whole();
    }

    fn kill_master(&self) {
        let set = &self.servers.set;
        let old = set.master();
        set.server(old).crash();
        set.moved_from(old);
        self.hold();
        restart(set.server(old));
        set.until_whole();
    }

    fn pause_master(&self) {
        let set = &self.servers.set;
        self.pause(set.server(set.master()), "WRITE");
        set.until_whole();
    }

    fn kill_sentinel(&self) {
        let set = &self.servers.set;
        let nth = self.nth(set.sentinels().len());
        set.sentinel(nth).crash();
        self.hold();
        let started = set.restart_sentinel(nth);
        started.unwrap_or_else(|error| panic!("the sentinel does not start again: {error}"));
        set.until_whole();
    }

    fn freeze_sentinels(&self) {
        let set = &self.servers.set;
        let sentinels = || (0..set.sentinels().len()).map(|nth| set.sentinel(nth));
        sentinels().for_each(TestServer::pause);
        self.hold();
        sentinels().for_each(TestServer::resume);
        set.until_whole();
    }

    fn slot(&self) -> u16 {
        slot_of(&key(self.dice))
    }

    fn primary(&self) -> usize {
        self.servers.cluster.primary_of(self.slot())
    }

    fn fail_over_node(&self) {
        let cluster = &self.servers.cluster;
        let replicas = cluster.replicas_of(self.primary());
        let replica = replicas.first().expect("each primary should have a replica");
        cluster.fail_over(*replica);
    }

    fn kill_node(&self) {
        let (cluster, slot) = (&self.servers.cluster, self.slot());
        let old = self.primary();
        cluster.node(old).crash();
        cluster.moved_from(slot, old);
        self.hold();
        restart(cluster.node(old));
        cluster.until_whole();
    }

    fn freeze_node(&self) {
        self.freeze(self.servers.cluster.node(self.primary()));
        self.servers.cluster.until_whole();
    }

    /// A few, and always of the same: the slots' owners are a list that should not grow for ever.
    fn move_slots(&self) {
        let cluster = &self.servers.cluster;
        for nth in 0..4 {
            let slot = slot_of(&key(nth));
            let owner = cluster.primary_of(slot);
            let primaries = || (0..cluster.nodes().len()).filter(|&node| cluster.is_master(node));
            let others: Vec<usize> = primaries().filter(|node| *node != owner).collect();
            cluster.move_slot(slot, others[self.nth(others.len())]);
            self.hold.part(4);
        }
        cluster.until_whole();
    }

    fn nth(&self, of: usize) -> usize {
        usize::try_from(self.dice).unwrap_or(0) % of
    }
}

/// Closes everybody's connections but ours, those of replicas and of other nodes.
fn cut(server: &TestServer) {
    for kind in ["normal", "pubsub"] {
        server.admin().text(&["CLIENT", "KILL", "TYPE", kind]);
    }
}

fn restart(server: &TestServer) {
    server.restart().unwrap_or_else(|error| panic!("the server does not start again: {error}"));
}

/// A fault as it was.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) title: String,
    pub(crate) from: Duration,
    /// The servers were at work again.
    pub(crate) mended: Duration,
    /// Callers of each kind were served again.
    pub(crate) recovered: Duration,
    /// The kind that was served last.
    pub(crate) last: String,
}
