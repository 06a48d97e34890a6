//! A master, two replicas and three sentinels, and what is done to them.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::Failure;
use crate::sentinel::{MASTER, Sentinel};
use crate::server::{Reply, TestServer, poll};

/// The user the clients log in as. Sentinels and replicas do not log in, so that whatever is counted
/// under this name is the clients'.
pub(crate) const USER: &str = "app";
pub(crate) const PASSWORD: &str = "secret";

/// Replicas found, sentinels acquainted, an old master turned into a replica: far more than it takes.
const LIMIT: Duration = Duration::from_secs(40);
const TICK: Duration = Duration::from_millis(20);

pub(crate) struct Set {
    servers: Vec<Server>,
    sentinels: Vec<Sentinel>,
    /// Connections each sentinel had accepted before there was a client: the others', and ours.
    before: Vec<u64>,
    words: mpsc::UnboundedReceiver<Word>,
}

/// `+switch-master`, as a sentinel said it.
#[derive(Clone, Copy)]
pub(crate) struct Word {
    /// Whose it is, counted from 0.
    pub(crate) sentinel: usize,
    pub(crate) at: Instant,
}

struct Server {
    process: TestServer,
    at_work: bool,
    /// As last seen: a dead server tells nothing, a stopped one later.
    accepted: u64,
}

/// What the servers counted of the clients under test.
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
    pub(crate) async fn start(quick: bool) -> Result<Self, Failure> {
        let (servers, sentinels) = tokio::task::spawn_blocking(move || processes(quick)).await??;
        let words = listen(&sentinels).await?;
        let before = sentinels.iter().map(received).collect::<Result<_, _>>()?;
        Ok(Self { servers, sentinels, before, words })
    }

    pub(crate) fn sentinel_urls(&self) -> Vec<String> {
        let url = |s: &Sentinel| format!("redis://{USER}:{PASSWORD}@127.0.0.1:{}", s.port);
        self.sentinels.iter().map(url).collect()
    }

    /// The master, as the sentinels have it, once they agree and have a replica to promote.
    pub(crate) async fn master(&self) -> Result<usize, Failure> {
        let agreed = async {
            loop {
                if let Some(master) = self.agreed_master() {
                    return master;
                }
                sleep(TICK).await;
            }
        };
        Ok(timeout(LIMIT, agreed).await.map_err(|_| "the sentinels do not agree on a master")?)
    }

    fn agreed_master(&self) -> Option<usize> {
        let ports: HashSet<_> = self.sentinels.iter().map(master_port).collect();
        let [Some(port)] = ports.into_iter().collect::<Vec<_>>()[..] else { return None };
        let master = self.servers.iter().position(|server| server.process.port() == port)?;
        let others = self.servers.iter().enumerate().filter(|(nth, _)| *nth != master);
        let follow = others
            .filter(|(_, server)| server.at_work)
            .all(|(_, server)| server.replication().contains("master_link_status:up"));
        follow.then_some(master)
    }

    /// Asks a sentinel for a failover, as an operator does before maintenance.
    pub(crate) async fn fail_over(&self) -> Result<(), Failure> {
        let mut last = None;
        let asking = async {
            // A sentinel that has not heard of its replicas lately has none to promote: in a moment.
            while let Err(failure) = self.sentinels[0].command(&["SENTINEL", "FAILOVER", MASTER]) {
                last = Some(failure);
                sleep(TICK).await;
            }
        };
        match (timeout(LIMIT, asking).await, last) {
            (Err(_), Some(failure)) => Err(failure),
            _ => Ok(()),
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, nth: usize) {
        self.servers[nth].count();
        self.servers[nth].at_work = false;
        self.servers[nth].process.crash();
    }

    /// SIGSTOP: the kernel still accepts connections, nobody answers.
    pub(crate) fn freeze(&mut self, nth: usize) {
        self.servers[nth].count();
        self.servers[nth].at_work = false;
        self.servers[nth].process.pause();
    }

    /// SIGCONT.
    pub(crate) fn wake(&mut self, nth: usize) {
        self.servers[nth].process.resume();
        self.servers[nth].at_work = true;
    }

    pub(crate) fn follows(&self, nth: usize) -> bool {
        self.servers[nth].replication().contains("master_link_status:up")
    }

    /// What the sentinels have said since we last asked.
    pub(crate) fn words(&mut self) -> Vec<Word> {
        std::iter::from_fn(|| self.words.try_recv().ok()).collect()
    }

    pub(crate) fn counts(&mut self) -> Result<Counts, Failure> {
        let slots = self.servers.iter_mut().map(Server::count).max().unwrap_or(0);
        let accepted = self.servers.iter().map(|server| server.accepted).sum();
        let mut counts = Counts { accepted, slots, ..Counts::default() };
        for (sentinel, before) in self.sentinels.iter().zip(&self.before) {
            counts.sentinel_dials += received(sentinel)?.saturating_sub(*before);
            let clients = sentinel.command(&["CLIENT", "LIST"])?.text();
            counts.sentinel_slots = counts.sentinel_slots.max(connections(&clients));
        }
        Ok(counts)
    }

    /// Everything that was written and is still there.
    pub(crate) fn keys(&self, nth: usize) -> Result<HashSet<String>, Failure> {
        match self.servers[nth].process.admin().command(&["KEYS", "*"])? {
            Reply::Array(keys) => Ok(keys.iter().map(Reply::text).collect()),
            other => Err(format!("KEYS: {}", other.text()).into()),
        }
    }
}

impl Server {
    /// Remembers how many dials of the clients it has accepted; returns how many connections they
    /// hold.
    fn count(&mut self) -> u64 {
        if !self.at_work {
            return 0;
        }
        // Every dial logs in once. Where there is no answer, a sentinel has just closed all of a
        // demoted server's connections, ours too.
        if let Some(stats) = self.text(&["INFO", "commandstats"]) {
            let calls = stats.lines().find_map(|line| {
                line.strip_prefix("cmdstat_auth:calls=")?.split(',').next()?.parse().ok()
            });
            self.accepted = calls.unwrap_or(self.accepted);
        }
        connections(&self.text(&["CLIENT", "LIST"]).unwrap_or_default())
    }

    fn replication(&self) -> String {
        self.text(&["INFO", "replication"]).unwrap_or_default()
    }

    fn text(&self, words: &[&str]) -> Option<String> {
        self.process.admin().command(words).ok().map(|reply| reply.text())
    }
}

/// Starts everything, and returns when everybody knows everybody.
fn processes(quick: bool) -> Result<(Vec<Server>, Vec<Sentinel>), Failure> {
    let server = || {
        TestServer::builder().acl_user(USER, PASSWORD).arg("repl-diskless-sync-delay", "0")
    };
    let master = server().start()?;
    let of = format!("127.0.0.1 {}", master.port());
    let port = master.port();
    let replicas = [server().arg("replicaof", &of).start()?, server().arg("replicaof", &of).start()?];
    let servers = [master].into_iter().chain(replicas);
    let servers = servers.map(|process| Server { process, at_work: true, accepted: 0 }).collect();

    let sentinels = (0..3).map(|_| Sentinel::start(port)).collect::<Result<Vec<_>, _>>()?;
    // How often they look whether a server is up. With their usual second they take a new master for
    // dead that they have not reached within the time we give them. Before Redis 7 it is what it is.
    for sentinel in &sentinels {
        let _ = sentinel.command(&["SENTINEL", "DEBUG", "PING-PERIOD", "200"]);
    }
    if quick {
        // How often they speak to each other, of which four times is how long an old master may say
        // that it is one still; and how often they look.
        let faster = ["SENTINEL", "DEBUG", "PUBLISH-PERIOD", "500", "INFO-PERIOD", "500"];
        for sentinel in &sentinels {
            sentinel.command(&faster).map_err(|e| format!("--quick needs Redis 7: {e}"))?;
        }
    }
    let acquainted = || sentinels.iter().all(|sentinel| knows_all(sentinel)).then_some(());
    poll(LIMIT, acquainted).ok_or("the sentinels do not find each other")?;
    Ok((servers, sentinels))
}

fn knows_all(sentinel: &Sentinel) -> bool {
    let Ok(Reply::Array(fields)) = sentinel.command(&["SENTINEL", "MASTER", MASTER]) else { return false };
    let fields: Vec<_> = fields.iter().map(Reply::text).collect();
    let is = |name: &str, value: &str| fields.chunks(2).any(|field| field == [name, value]);
    is("flags", "master") && is("num-slaves", "2") && is("num-other-sentinels", "2")
        // They have connected to it, too: later is to come nobody but the clients.
        && sentinel.command(&["CLIENT", "LIST"]).is_ok_and(|clients| {
            clients.text().lines().filter(|line| line.contains(" name=sentinel-")).count() == 2
        })
}

fn master_port(sentinel: &Sentinel) -> Option<u16> {
    match sentinel.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]) {
        Ok(Reply::Array(address)) => address.last()?.text().parse().ok(),
        _ => None,
    }
}

/// How many of a `CLIENT LIST` are the clients'.
fn connections(list: &str) -> u64 {
    let user = format!(" user={USER} ");
    list.lines().filter(|line| line.contains(&user)).count() as u64
}

/// Connections that a sentinel has accepted so far, whoever's.
fn received(sentinel: &Sentinel) -> Result<u64, Failure> {
    let info = sentinel.command(&["INFO", "stats"])?.text();
    let count = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    Ok(count.ok_or("INFO has no total_connections_received")?.trim().parse()?)
}

/// Subscribes to `+switch-master` at each of them.
async fn listen(sentinels: &[Sentinel]) -> Result<mpsc::UnboundedReceiver<Word>, Failure> {
    let (say, words) = mpsc::unbounded_channel();
    for (nth, sentinel) in sentinels.iter().enumerate() {
        let mut subscriber = redis::Client::open(("127.0.0.1", sentinel.port))?.get_async_pubsub().await?;
        subscriber.subscribe("+switch-master").await?;
        let say = say.clone();
        tokio::spawn(async move {
            let mut messages = subscriber.into_on_message();
            while messages.next().await.is_some() {
                let _ = say.send(Word { sentinel: nth, at: Instant::now() });
            }
        });
    }
    Ok(words)
}
