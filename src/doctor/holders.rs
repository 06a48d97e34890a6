//! Who holds the slots: CLIENT LIST, summed up.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::Serialize;

use crate::server::{Client, ClientList};

/// Replies that a client has yet to read, in bytes, from which on it is a slow consumer: far above
/// what a client that reads has at any moment.
pub(super) const SLOW_CONSUMER: u64 = 1 << 20;

/// Whoever was not used again for so long after it was new, and nearly all of its life, is abandoned: a
/// leak that fills the server in a minute is not idle for `idle_after`.
const ABANDONED: Duration = Duration::from_secs(5);

/// A connection that was closed again, at the rate of one a request, is seldom older.
const YOUNG_SECONDS: u64 = 1;

/// Who is connected, summed up. Counts are of ordinary clients, without replicas and the
/// connection to a master; those have counts of their own.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Holders {
    /// Ordinary clients, the doctor's own connection not among them.
    pub clients: usize,
    /// Of those, idle for longer than `idle_after`, and neither blocked nor subscribed.
    pub idle: usize,
    /// With a command within `idle_after`, neither blocked nor subscribed, and none of `never_used`.
    #[serde(skip)]
    pub(super) recent: usize,
    /// Those whose socket is dead, which the server has not noticed. They are in no count but that of
    /// `clients`, and of no source.
    pub dead: usize,
    /// Those that were used when they were new and never since, for five seconds at least.
    pub abandoned: usize,
    /// Those that were not used since they were new: the abandoned, and those that have done nothing but
    /// introduce themselves yet.
    pub never_used: usize,
    /// The age of the oldest of those, in seconds.
    #[serde(skip)]
    pub(super) never_used_for: Option<u64>,
    /// Without a name.
    pub unnamed: usize,
    /// In a blocking command.
    pub blocked: usize,
    /// The same, by command.
    pub blocked_by_command: BTreeMap<String, usize>,
    /// Subscribed to something.
    pub subscribers: usize,
    /// In MONITOR.
    pub monitors: usize,
    /// Connected for a second at most.
    pub young: usize,
    /// The age of the oldest, in seconds.
    pub oldest_seconds: Option<u64>,
    /// The longest idle time, in seconds, of those that are neither blocked nor subscribed.
    pub longest_idle_seconds: Option<u64>,
    /// Replicas.
    pub replicas: usize,
    /// Bytes of replies that clients have yet to read.
    pub output_bytes: u64,
    /// How many have a mebibyte of it or more.
    pub slow: usize,
    /// Those of them with most, most first.
    pub slow_consumers: Vec<Client>,
    /// How many sources there are. A source is an address under one name; where hardly two
    /// connections have the same name, an address.
    pub sources: usize,
    /// The sources that hold most.
    pub by_source: Vec<Holder>,
    /// The addresses that hold most.
    pub by_address: Vec<Holder>,
    /// The names that hold most.
    pub by_name: Vec<Holder>,
    /// The client libraries that hold most.
    pub by_library: Vec<Holder>,
    /// The users that hold most.
    pub by_user: Vec<Holder>,
    /// Lines of the list that could not be read.
    pub unreadable: usize,
    /// Every source, largest first, for the verdict.
    #[serde(skip)]
    pub(super) all_sources: Vec<Holder>,
}

/// Connections that have something in common.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Holder {
    /// What: an address, a name, … `-` where the server does not tell.
    pub key: String,
    /// How many they are.
    pub connections: usize,
    /// Of those, idle for long; see [`Holders::idle`].
    pub idle: usize,
    /// In a blocking command.
    pub blocked: usize,
    /// Subscribed to something.
    pub subscribers: usize,
    /// Connected for a second at most.
    pub young: usize,
    /// The age of the oldest, in seconds.
    pub oldest_seconds: Option<u64>,
    /// Those that were used when they were new and never since; see [`Holders::abandoned`].
    pub abandoned: usize,
    /// Those that were not used since they were new; see [`Holders::never_used`].
    pub never_used: usize,
    /// The ages of the abandoned, for the verdict.
    #[serde(skip)]
    pub(super) abandoned_ages: Vec<u64>,
    /// Of a source, the name it goes by: those with the same one are instances of one service.
    #[serde(skip)]
    pub(super) service: Option<String>,
}

impl Holders {
    /// `own`: the id of our own connection.
    pub(super) fn of(
        list: &ClientList,
        own: Option<u64>,
        idle_after: Duration,
        top: usize,
    ) -> Self {
        let mut holders = Self { unreadable: list.unreadable, ..Self::default() };
        let mut groups = [(); 5].map(|()| HashMap::<String, Holder>::new());
        for client in &list.clients {
            if client.is_replica() {
                holders.replicas += 1;
            }
            let ours = own.is_some() && client.id == own;
            if ours || client.is_replica() || client.is_master() {
                continue;
            }
            if client.is_dead() {
                holders.clients += 1;
                holders.dead += 1;
                continue;
            }
            let state = ClientState::of(client, idle_after);
            holders.add(client, &state);
            let text = |field: &Option<String>| field.as_deref().unwrap_or("-").to_owned();
            let (host, name) = (client.host().unwrap_or("-"), client.name.as_deref());
            let source = name.map_or_else(|| host.to_owned(), |name| format!("{host} {name}"));
            let source_group = groups[0].entry(source).or_default();
            source_group.service.clone_from(&client.name);
            source_group.add(&state);
            let keys =
                [host.to_owned(), text(&client.name), text(&client.library), text(&client.user)];
            for (group, key) in groups.iter_mut().skip(1).zip(keys) {
                group.entry(key).or_default().add(&state);
            }
        }
        let bytes = |client: &Client| client.output_bytes;
        holders.slow_consumers.sort_by_key(|client| std::cmp::Reverse(bytes(client)));
        // One is needed to name it.
        holders.slow_consumers.truncate(top.max(1));
        let [mut sources, addresses, names, libraries, users] = groups.map(ranked);
        // A name for each connection tells them apart, not whose they are.
        if sources.len() >= 10 && sources.len() * 2 > holders.clients {
            sources.clone_from(&addresses);
        }
        let first = |group: &[Holder]| group.iter().take(top).cloned().collect::<Vec<_>>();
        holders.sources = sources.len();
        holders.by_source = first(&sources);
        holders.by_address = first(&addresses);
        holders.by_name = first(&names);
        holders.by_library = first(&libraries);
        holders.by_user = first(&users);
        holders.all_sources = sources;
        holders
    }

    /// Clients in WAIT or WAITAOF.
    pub(super) fn waiting_for_replicas(&self) -> usize {
        ["wait", "waitaof"].iter().filter_map(|name| self.blocked_by_command.get(*name)).sum()
    }

    fn add(&mut self, client: &Client, state: &ClientState) {
        self.clients += 1;
        self.idle += usize::from(state.idle);
        self.recent += usize::from(state.recent);
        self.abandoned += usize::from(state.abandoned);
        self.never_used += usize::from(state.never_used);
        if state.never_used {
            self.never_used_for = self.never_used_for.max(state.age);
        }
        self.unnamed += usize::from(client.name.is_none());
        self.subscribers += usize::from(state.subscriber);
        self.monitors += usize::from(client.is_monitor());
        self.young += usize::from(state.young);
        self.oldest_seconds = self.oldest_seconds.max(state.age);
        if !state.blocked && !state.subscriber {
            self.longest_idle_seconds = self.longest_idle_seconds.max(client.idle_seconds);
        }
        if state.blocked {
            self.blocked += 1;
            let command = client.command.as_deref().unwrap_or("-").to_ascii_lowercase();
            *self.blocked_by_command.entry(command).or_default() += 1;
        }
        let bytes = client.output_bytes.unwrap_or(0);
        self.output_bytes = self.output_bytes.saturating_add(bytes);
        if bytes >= SLOW_CONSUMER {
            self.slow += 1;
            self.slow_consumers.push(client.clone());
        }
    }
}

impl Holder {
    pub(super) fn unused(&self) -> usize {
        self.idle.max(self.never_used)
    }

    fn add(&mut self, state: &ClientState) {
        self.connections += 1;
        self.idle += usize::from(state.idle);
        self.blocked += usize::from(state.blocked);
        self.subscribers += usize::from(state.subscriber);
        self.young += usize::from(state.young);
        self.abandoned += usize::from(state.abandoned);
        self.never_used += usize::from(state.never_used);
        self.oldest_seconds = self.oldest_seconds.max(state.age);
        if state.abandoned {
            self.abandoned_ages.extend(state.age);
        }
    }
}

/// What counts of one client.
struct ClientState {
    age: Option<u64>,
    idle: bool,
    recent: bool,
    blocked: bool,
    subscriber: bool,
    young: bool,
    abandoned: bool,
    never_used: bool,
}

impl ClientState {
    fn of(client: &Client, idle_after: Duration) -> Self {
        let (blocked, subscriber) = (client.is_blocked(), client.is_subscriber());
        let waits = blocked || subscriber || client.is_monitor();
        let idle = !waits && client.idle_seconds.is_some_and(|idle| idle >= idle_after.as_secs());
        let (age, last) = (client.age_seconds, client.idle_seconds);
        // Idle for nine tenths of its life, where a pool that takes turns uses its connections again.
        // Each number is a second short at most.
        let most_of = |age: u64| age - age / 10;
        let least = idle_after.min(ABANDONED).as_secs();
        let silent = !waits
            && age.zip(last).is_some_and(|(age, idle)| idle.saturating_add(1) >= most_of(age));
        let abandoned = silent && last.is_some_and(|idle| idle >= least);
        let never_used = abandoned || (silent && has_only_introduced_itself(client));
        let recent = !waits && !idle && !never_used && last.is_some();
        let young = age.is_some_and(|age| age <= YOUNG_SECONDS);
        Self { age, idle, recent, blocked, subscriber, young, abandoned, never_used }
    }
}

/// True where its last command, if it has sent any, is one that clients begin with. PING is none of them:
/// pools ask that of connections that they use.
fn has_only_introduced_itself(client: &Client) -> bool {
    // Before Redis 7 there are no subcommands here.
    const FIRST: [&str; 9] = [
        "auth",
        "client",
        "client|id",
        "client|no-evict",
        "client|setinfo",
        "client|setname",
        "hello",
        "readonly",
        "select",
    ];
    let command = client.command.as_deref();
    command.is_none_or(|command| FIRST.iter().any(|it| it.eq_ignore_ascii_case(command)))
}

/// Most connections first; the key decides between equals, so that two reports can be compared.
fn ranked(group: HashMap<String, Holder>) -> Vec<Holder> {
    let mut ranked: Vec<Holder> =
        group.into_iter().map(|(key, holder)| Holder { key, ..holder }).collect();
    ranked.sort_by(|one, other| {
        other.connections.cmp(&one.connections).then_with(|| one.key.cmp(&other.key))
    });
    ranked
}
