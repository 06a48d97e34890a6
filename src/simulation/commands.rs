//! What a scripted server answers to commands. A command with a key is answered with the key: each has its own, so
//! that whoever asked sees whether the answer is his.

use std::time::Duration;

use tokio::time::Instant;

use super::resp::{self, Words, array, bulk, error, int, map, nil, push, simple, text};
use super::server::{Host, PORT};
use super::shape::{Kind, Shape};
use super::world::{State, World};
use crate::vocabulary::routing::slot;

/// The longest that a slow reply takes: longer than anybody waits.
const SLOW: Duration = Duration::from_secs(3);

/// What a connection has been told so far.
#[derive(Debug, Default)]
pub(super) struct Session {
    host: usize,
    dial: u64,
    resp3: bool,
    reads_replica: bool,
    /// Until the next command has ended, or the transaction that it begins.
    asking: bool,
    /// The transaction's commands.
    queued: Option<Vec<Words>>,
    /// One of them was refused.
    aborted: bool,
    /// The operation that watches keys.
    watching: Option<String>,
}

pub(super) enum Reply {
    Now(Vec<u8>),
    Later(Duration, Vec<u8>),
}

/// The operation that a key belongs to.
fn operation(key: &[u8]) -> String {
    let key = String::from_utf8_lossy(key);
    key.split('n').next().unwrap_or_default().to_owned()
}

impl Session {
    pub(super) fn new(host: usize, dial: u64) -> Self {
        Self { host, dial, ..Self::default() }
    }

    pub(super) fn reply(&mut self, world: &World, words: &Words) -> Reply {
        let name = text(words, 0).to_ascii_uppercase();
        let queues = !matches!(&*name, "MULTI" | "EXEC" | "DISCARD" | "WATCH" | "RESET");
        if self.queued.is_some() && queues {
            if let Some(refused) = self.refused(world, &mut world.lock(), &name, words) {
                self.aborted = true;
                return Reply::Now(error(&refused));
            }
            self.queued.get_or_insert_default().push(words.clone());
            return Reply::Now(simple("QUEUED"));
        }
        let reply = self.execute(world, &name, words);
        if self.queued.is_none() && name != "ASKING" {
            self.asking = false;
        }
        let mut state = world.lock();
        let slow = state.weather.slow;
        if state.rng.u32(..1_000) < slow {
            state.count("slow");
            let (Reply::Now(bytes) | Reply::Later(_, bytes)) = reply;
            return Reply::Later(SLOW, bytes);
        }
        reply
    }

    // Long because it is a table: one row a command.
    fn execute(&mut self, world: &World, name: &str, words: &Words) -> Reply {
        let mut state = world.lock();
        if let Some(refused) = self.refused(world, &mut state, name, words) {
            return Reply::Now(error(&refused));
        }
        let key = words.get(1).map(Vec::as_slice).unwrap_or_default();
        Reply::Now(match name {
            "HELLO" => {
                self.resp3 = text(words, 1) == "3";
                let fields = ["server", "redis", "version", "7.0.15", "mode", "standalone"];
                let fields = fields.map(bulk).into_iter();
                let proto = [bulk("proto"), int(if self.resp3 { 3 } else { 2 })];
                map(self.resp3, fields.chain(proto))
            }
            "AUTH" | "SELECT" | "CLIENT" | "READONLY" | "ASKING" | "UNWATCH" => {
                self.reads_replica |= name == "READONLY";
                self.asking |= name == "ASKING";
                if name == "UNWATCH" {
                    self.watching = None;
                }
                simple("OK")
            }
            "PING" if self.is_subscribed(&state) && !self.resp3 => array([bulk("pong"), bulk("")]),
            "PING" if words.len() > 1 => bulk(&text(words, 1)),
            "PING" => simple("PONG"),
            "RESET" => {
                *self = Self::new(self.host, self.dial);
                simple("RESET")
            }
            "INFO" => bulk(&info(&state, self.host)),
            "ROLE" => role(world, &state, self.host),
            "CLUSTER" if text(words, 1).eq_ignore_ascii_case("SLOTS") => slots(world, &state.shape),
            "CLUSTER" => {
                let epoch = state.shape.epoch;
                bulk(&format!("cluster_state:ok\r\ncluster_current_epoch:{epoch}\r\n"))
            }
            "SENTINEL" => sentinel(world, &state, &text(words, 1)),
            "GET" | "GETSET" => bulk(&String::from_utf8_lossy(key)),
            "BLPOP" => {
                let seconds: f64 = text(words, 2).parse().unwrap_or_default();
                let limit = Duration::from_secs_f64(seconds);
                let found = state.rng.bool();
                let wait = if found { limit.mul_f64(state.rng.f64()) } else { limit };
                let item = String::from_utf8_lossy(key);
                let bytes = match found {
                    true => array([bulk(&item), bulk(&item)]),
                    false => nil(self.resp3, true),
                };
                return Reply::Later(wait, bytes);
            }
            "WATCH" => {
                self.watching = Some(operation(key));
                simple("OK")
            }
            "MULTI" => {
                self.queued = Some(Vec::new());
                simple("OK")
            }
            "DISCARD" => {
                (self.queued, self.watching, self.aborted) = (None, None, false);
                simple("OK")
            }
            "EXEC" => {
                let (queued, watching) = (self.queued.take(), self.watching.take());
                drop(state);
                if std::mem::take(&mut self.aborted) {
                    let why = "EXECABORT Transaction discarded because of previous errors.";
                    return Reply::Now(error(why));
                }
                return Reply::Now(self.exec(world, queued, watching));
            }
            "PUBLISH" => int(publish(&mut state, self.host, &text(words, 1), &text(words, 2))),
            "SUBSCRIBE" | "UNSUBSCRIBE" => self.subscribe(&mut state, name, words),
            name => {
                state.fail(format!("a command that no server here knows: {name}"));
                error("ERR unknown command")
            }
        })
    }

    /// Why this host does not execute it, if that is so.
    fn refused(
        &self,
        world: &World,
        state: &mut State,
        name: &str,
        words: &Words,
    ) -> Option<String> {
        let loading = state.hosts[self.host].loading_until > Instant::now();
        if loading && matches!(name, "PING" | "GET" | "GETSET" | "BLPOP" | "ASKING") {
            state.count("loading");
            return Some("LOADING Redis is loading the dataset in memory".to_owned());
        }
        let key = words.get(1).map(Vec::as_slice).unwrap_or_default();
        let writes = matches!(name, "GETSET" | "BLPOP");
        if !(writes || matches!(name, "GET" | "WATCH")) {
            return None;
        }
        let shape = &state.shape;
        if shape.kind != Kind::Cluster {
            let replica = shape.is_replica(self.host) || state.hosts[self.host].is_demoted;
            return (replica && writes).then(|| {
                state.count("readonly");
                "READONLY You can't write against a read only replica.".to_owned()
            });
        }
        let slot = slot(key);
        let (owner, target) = (shape.owner(slot), shape.target(slot));
        let at = |host: usize| format!("{}:{PORT}", world.ip(host));
        if owner == self.host {
            // Every other key has gone already.
            let gone = key.iter().map(|byte| u32::from(*byte)).sum::<u32>() % 2 == 0;
            return target.filter(|_| gone).map(|target| {
                state.count("ask");
                format!("ASK {slot} {}", at(target))
            });
        }
        let reads = !writes && self.reads_replica && shape.follows[self.host] == Some(owner);
        if reads || (self.asking && target == Some(self.host)) {
            return None;
        }
        state.count("moved");
        Some(format!("MOVED {slot} {}", at(owner)))
    }

    fn exec(
        &mut self,
        world: &World,
        queued: Option<Vec<Words>>,
        watching: Option<String>,
    ) -> Vec<u8> {
        let Some(queued) = queued else { return error("ERR EXEC without MULTI") };
        let keys = queued.iter().filter_map(|words| words.get(1));
        let mut operations: Vec<String> =
            keys.map(|key| operation(key)).chain(watching.clone()).collect();
        operations.dedup();
        if operations.len() > 1 {
            world.fail(format!("a transaction of more than one operation: {operations:?}"));
        }
        if watching.is_some() && world.lock().rng.u32(..4) == 0 {
            return nil(self.resp3, true);
        }
        let mut replies = Vec::new();
        for words in &queued {
            let name = text(words, 0).to_ascii_uppercase();
            let (Reply::Now(reply) | Reply::Later(_, reply)) = self.execute(world, &name, words);
            replies.push(reply);
        }
        array(replies)
    }

    fn is_subscribed(&self, state: &State) -> bool {
        let connection = state.hosts[self.host].connections.get(&self.dial);
        connection.is_some_and(|connection| !connection.channels.is_empty())
    }

    fn subscribe(&self, state: &mut State, name: &str, words: &Words) -> Vec<u8> {
        let Some(connection) = state.hosts[self.host].connections.get_mut(&self.dial) else {
            return Vec::new();
        };
        let channels = &mut connection.channels;
        let mut replies = Vec::new();
        for at in 1..words.len() {
            let channel = text(words, at);
            match name {
                "SUBSCRIBE" => channels.insert(channel.clone()),
                _ => channels.remove(&channel),
            };
            let count = int(channels.len() as u64);
            let reply = [bulk(&name.to_ascii_lowercase()), bulk(&channel), count];
            replies.extend(push(self.resp3, reply));
        }
        replies
    }
}

/// Puts a message into the mail of those who have subscribed; how many.
pub(super) fn publish(state: &mut State, host: usize, channel: &str, message: &str) -> u64 {
    let mut count = 0;
    let connections = state.hosts[host].connections.values_mut();
    for connection in connections.filter(|connection| connection.channels.contains(channel)) {
        let message = [bulk("message"), bulk(channel), bulk(message)];
        connection.mail.push_back(push(false, message));
        connection.peer.wake();
        count += 1;
    }
    count
}

fn info(state: &State, host: usize) -> String {
    let Host { maxclients, rejected, received, run, .. } = &state.hosts[host];
    let clients = state.hosts[host].clients();
    let replica = state.shape.is_replica(host) || state.hosts[host].is_demoted;
    let role = if replica { "slave" } else { "master" };
    let cluster = u8::from(state.shape.kind == Kind::Cluster);
    let now = state.now().as_secs();
    format!(
        "redis_version:7.0.15\r\nrun_id:{run:040}\r\nuptime_in_seconds:{now}\r\nloading:0\r\n\
         connected_clients:{clients}\r\ncluster_connections:0\r\nmaxclients:{maxclients}\r\n\
         blocked_clients:0\r\ntotal_connections_received:{received}\r\n\
         rejected_connections:{rejected}\r\nrole:{role}\r\nconnected_slaves:0\r\n\
         master_link_status:up\r\ncluster_enabled:{cluster}\r\n"
    )
}

fn role(world: &World, state: &State, host: usize) -> Vec<u8> {
    let follows = state.shape.follows.get(host).copied().flatten();
    let follows = follows.or(state.hosts[host].is_demoted.then_some(host));
    match follows {
        None => array([bulk("master"), int(0), array([])]),
        Some(master) => {
            let (ip, port) = (bulk(&world.ip(master)), int(u64::from(PORT)));
            array([bulk("slave"), ip, port, bulk("connected"), int(0)])
        }
    }
}

fn slots(world: &World, shape: &Shape) -> Vec<u8> {
    let node = |host: usize| {
        let (ip, port) = (bulk(&world.ip(host)), int(u64::from(PORT)));
        array([ip, port, bulk(&format!("{host:040}")), array([])])
    };
    array(shape.ranges().map(|(first, last, owner)| {
        let (first, last) = (int(u64::from(first)), int(u64::from(last)));
        let nodes = std::iter::once(owner).chain(shape.replicas_of(owner)).map(node);
        array([first, last].into_iter().chain(nodes))
    }))
}

fn sentinel(world: &World, state: &State, question: &str) -> Vec<u8> {
    let port = PORT.to_string();
    if question.eq_ignore_ascii_case("GET-MASTER-ADDR-BY-NAME") {
        return array([bulk(&world.ip(state.shape.named)), bulk(&port)]);
    }
    let replicas = (0..state.shape.data()).filter(|host| *host != state.shape.named);
    resp::array(replicas.map(|host| {
        let ip = world.ip(host);
        let up = state.hosts[host].is_up;
        let flags = if up { "slave" } else { "slave,s_down" };
        let link = if up { "ok" } else { "err" };
        let fields =
            ["name", &ip, "ip", &ip, "port", &port, "flags", flags, "master-link-status", link];
        array(fields.map(bulk))
    }))
}
