//! A master with its replicas, and the sentinels that watch them.
#![allow(dead_code, reason = "every test uses its own part of the support code")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::server::{
    Admin, Auth, Connection, Reply, Resp, SEVEN, StartError, TestServer, TestServerBuilder,
    Transport, poll, program, quoted,
};

const WHOLE_LIMIT: Duration = Duration::from_secs(60);
const QUORUM: usize = 2;
/// How long a server is silent before a sentinel takes it for down. Those that the quorum does not
/// need wait twice as long: where three become candidates at once, each votes for itself, and the
/// next election is two failover timeouts away.
/// No machine is so busy that its servers are silent for as long.
const DOWN_AFTER_MS: u32 = 60_000;
const FAILOVER_TIMEOUT_MS: u32 = 2_000;
/// When a sentinel that was told to move the master is told again: on a busy machine it may have found no
/// replica that was fit, and have given up.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// A running set, killed on drop.
///
/// Each of the servers may be stopped, paused, killed and started again on its own.
#[derive(Debug)]
pub(crate) struct SentinelSet {
    // Before the servers: they are not to move a master whose set is on its way out.
    sentinels: Vec<TestServer>,
    servers: Vec<TestServer>,
    settings: SentinelSetBuilder,
    /// The sentinel that was told to move the master, until that has moved.
    told: Mutex<Option<usize>>,
}

/// What a [`SentinelSet`] is started with. Every setter may be left out.
#[derive(Clone, Debug)]
pub(crate) struct SentinelSetBuilder {
    name: String,
    replicas: usize,
    sentinels: usize,
    server: TestServerBuilder,
    sentinel: TestServerBuilder,
    server_password: Option<String>,
    sentinel_password: Option<String>,
    tls: bool,
    publish_period_ms: u32,
    down_after_ms: u32,
}

impl Default for SentinelSetBuilder {
    fn default() -> Self {
        Self {
            name: "mymaster".to_owned(),
            replicas: 2,
            sentinels: 3,
            server: TestServer::builder(),
            sentinel: TestServer::builder(),
            server_password: None,
            sentinel_password: None,
            tls: false,
            publish_period_ms: 200,
            down_after_ms: DOWN_AFTER_MS,
        }
    }
}

impl SentinelSetBuilder {
    /// The master's name; `mymaster` otherwise.
    pub(crate) fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Two otherwise.
    pub(crate) fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Three otherwise.
    pub(crate) fn sentinels(mut self, sentinels: usize) -> Self {
        self.sentinels = sentinels;
        self
    }

    /// Other settings for the master and its replicas; not their password.
    pub(crate) fn server(mut self, server: TestServerBuilder) -> Self {
        self.server = server;
        self
    }

    /// Other settings for the sentinels; not their password.
    pub(crate) fn sentinel(mut self, sentinel: TestServerBuilder) -> Self {
        self.sentinel = sentinel;
        self
    }

    /// What the master and the replicas ask for.
    pub(crate) fn server_password(mut self, password: &str) -> Self {
        self.server_password = Some(password.to_owned());
        self
    }

    /// What the sentinels ask for.
    pub(crate) fn sentinel_password(mut self, password: &str) -> Self {
        self.sentinel_password = Some(password.to_owned());
        self
    }

    /// Everybody speaks TLS to everybody, and the sentinels name the TLS ports.
    pub(crate) fn tls(mut self, tls: bool) -> Self {
        self.tls = tls;
        self
    }

    /// How often sentinels publish what they know; 200 ms otherwise. A server that comes back as a
    /// second master stays one for at least four times as long.
    pub(crate) fn publish_period_ms(mut self, period: u32) -> Self {
        self.publish_period_ms = period;
        self
    }

    /// The sentinels move the master when it is silent for half a second, which on a busy machine one may be that is
    /// well; otherwise the master moves only where the test tells them to.
    pub(crate) fn watchful(self) -> Self {
        self.down_after_ms(500)
    }

    /// How long a server is silent before a sentinel takes it for down; a minute otherwise.
    pub(crate) fn down_after_ms(mut self, down_after: u32) -> Self {
        self.down_after_ms = down_after;
        self
    }

    /// Starts everything, and returns when all know each other.
    ///
    /// # Errors
    /// See [`TestServerBuilder::start`].
    ///
    /// # Panics
    /// If they do not know each other within a minute.
    #[track_caller]
    pub(crate) fn start(self) -> Result<SentinelSet, StartError> {
        let mut set = SentinelSet {
            sentinels: Vec::new(),
            servers: Vec::new(),
            settings: self,
            told: Mutex::new(None),
        };
        for _ in 0..=set.settings.replicas {
            let server = set.server_settings().start()?;
            set.servers.push(server);
        }
        // Sentinels look for replicas every ten seconds only.
        let online = || (online(&set.servers[0]) == set.settings.replicas).then_some(());
        poll(WHOLE_LIMIT, online).expect("the replicas should follow their master");
        for _ in 0..set.settings.sentinels {
            let sentinel = set.sentinel_settings().start()?;
            set.hurry(&sentinel);
            set.sentinels.push(sentinel);
        }
        set.until_whole();
        Ok(set)
    }
}

impl SentinelSet {
    pub(crate) fn builder() -> SentinelSetBuilder {
        SentinelSetBuilder::default()
    }

    /// A master, two replicas, three sentinels.
    ///
    /// # Errors
    /// See [`TestServerBuilder::start`].
    ///
    /// # Panics
    /// See [`SentinelSetBuilder::start`].
    #[track_caller]
    pub(crate) fn start() -> Result<Self, StartError> {
        Self::builder().start()
    }

    /// The master's name.
    pub(crate) fn name(&self) -> &str {
        &self.settings.name
    }

    /// The sentinels' URLs, with their password if they have one.
    pub(crate) fn sentinels(&self) -> Vec<String> {
        self.sentinels.iter().map(|sentinel| self.url(sentinel, Transport::Tcp)).collect()
    }

    /// The same over TLS.
    pub(crate) fn tls_sentinels(&self) -> Vec<String> {
        self.sentinels.iter().map(|sentinel| self.url(sentinel, Transport::Tls)).collect()
    }

    /// The first master is number 0.
    pub(crate) fn server(&self, index: usize) -> &TestServer {
        &self.servers[index]
    }

    pub(crate) fn servers(&self) -> &[TestServer] {
        &self.servers
    }

    pub(crate) fn sentinel(&self, index: usize) -> &TestServer {
        &self.sentinels[index]
    }

    /// A server as a pool names it, and as the sentinels do.
    pub(crate) fn address(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.port_of(&self.servers[index]))
    }

    /// The master's number, once all sentinels that run say the same.
    ///
    /// # Panics
    /// If they do not within a minute.
    #[track_caller]
    pub(crate) fn master(&self) -> usize {
        let master = poll(WHOLE_LIMIT, || self.agreed());
        master.unwrap_or_else(|| panic!("the sentinels do not agree: {}", self.views()))
    }

    /// The number of some server that runs and is not the master.
    #[track_caller]
    pub(crate) fn replica(&self) -> usize {
        let master = self.master();
        let mut indexes = 0..self.servers.len();
        let replica = indexes.find(|&index| index != master && self.servers[index].is_running());
        replica.expect("a replica should run")
    }

    /// Makes a sentinel move the master to one of its replicas. Returns when it has begun.
    ///
    /// # Panics
    /// If it does not begin within a minute.
    #[track_caller]
    pub(crate) fn fail_over(&self) {
        let running = |sentinel: &TestServer| sentinel.is_running();
        let sentinel = self.sentinels.iter().position(running).expect("a sentinel should run");
        self.fail_over_by(sentinel);
    }

    /// The same by this sentinel: the others hear of it before it is done.
    ///
    /// # Panics
    /// See [`fail_over`](Self::fail_over).
    #[track_caller]
    pub(crate) fn fail_over_by(&self, sentinel: usize) {
        let begun = poll(WHOLE_LIMIT, || self.tell(sentinel).then_some(()));
        begun.unwrap_or_else(|| panic!("no failover has begun: {}", self.views()));
        *self.told() = Some(sentinel);
    }

    /// Has the sentinels choose this replica in the next failover; returns once they know.
    ///
    /// # Panics
    /// If they do not hear of it.
    #[track_caller]
    pub(crate) fn prefer(&self, index: usize) {
        self.servers[index].admin().text(&["CONFIG", "SET", "replica-priority", "1"]);
        let port = self.port_of(&self.servers[index]).to_string();
        let is_preferred = |fields: &HashMap<String, String>| {
            fields["port"] == port && fields["slave-priority"] == "1"
        };
        let question = ["SENTINEL", "REPLICAS", self.name()];
        let known = || {
            let mut sentinels = self.running_sentinels();
            sentinels.all(|it| all_fields(it.admin(), &question).iter().any(is_preferred))
        };
        let heard = poll(WHOLE_LIMIT, || known().then_some(()));
        heard.unwrap_or_else(|| panic!("the priority is not known: {}", self.views()));
    }

    /// True if it begins.
    fn tell(&self, sentinel: usize) -> bool {
        let told = self.sentinels[sentinel].admin().command(&["SENTINEL", "FAILOVER", self.name()]);
        told.is_ok_and(|reply| !reply.is_error())
    }

    fn told(&self) -> MutexGuard<'_, Option<usize>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The new master's number, once all sentinels that run say that it is not `old`.
    ///
    /// # Panics
    /// If they do not within a minute.
    #[track_caller]
    pub(crate) fn moved_from(&self, old: usize) -> usize {
        let mut again = Instant::now() + GIVEN_UP;
        let new = poll(WHOLE_LIMIT, || {
            let told = *self.told();
            if let Some(sentinel) = told
                && Instant::now() > again
            {
                // Refused while the failover is under way.
                if self.said_by(&self.sentinels[sentinel]) == Some(old) {
                    self.tell(sentinel);
                }
                again = Instant::now() + GIVEN_UP;
            }
            self.agreed().filter(|&new| new != old)
        });
        *self.told() = None;
        let new = new.unwrap_or_else(|| panic!("the master has not moved: {}", self.views()));
        renew(&self.servers[new]);
        new
    }

    /// Returns when the servers and sentinels that run know each other: one is the master and all
    /// others are its replicas, in the sentinels' eyes and in their own.
    ///
    /// # Panics
    /// If that is not so within a minute.
    #[track_caller]
    pub(crate) fn until_whole(&self) {
        let whole = poll(WHOLE_LIMIT, || self.is_whole().then_some(()));
        whole.unwrap_or_else(|| panic!("the set is not whole: {}", self.views()));
        self.servers.iter().filter(|server| server.is_running()).for_each(renew);
    }

    /// Starts a sentinel again that was stopped or killed. It knows what it knew.
    ///
    /// # Errors
    /// See [`TestServer::restart`].
    pub(crate) fn restart_sentinel(&self, index: usize) -> Result<(), StartError> {
        self.sentinels[index].restart()?;
        self.hurry(&self.sentinels[index]);
        Ok(())
    }

    /// One more master under a name of its own, for all sentinels that run. It must outlive the
    /// set.
    ///
    /// # Panics
    /// If a sentinel refuses it, or does not see it within a minute.
    #[track_caller]
    pub(crate) fn also_watch(&self, name: &str, master: &TestServer) {
        let (port, quorum) = (self.port_of(master).to_string(), QUORUM.to_string());
        let failover = FAILOVER_TIMEOUT_MS.to_string();
        for (index, sentinel) in self.running_sentinels().enumerate() {
            let down = self.down_after(index).to_string();
            let admin = sentinel.admin();
            admin.text(&["SENTINEL", "MONITOR", name, "127.0.0.1", &port, &quorum]);
            admin.text(&["SENTINEL", "SET", name, "down-after-milliseconds", &down]);
            admin.text(&["SENTINEL", "SET", name, "failover-timeout", &failover]);
            if let Some(password) = master.password() {
                admin.text(&["SENTINEL", "SET", name, "auth-pass", password]);
            }
        }
        let others = (self.running_sentinels().count() - 1).to_string();
        let seen = poll(WHOLE_LIMIT, || {
            let knows = |sentinel: &TestServer| {
                let state = fields(sentinel.admin(), &["SENTINEL", "MASTER", name]);
                state.is_some_and(|state| {
                    state["flags"] == "master" && state["num-other-sentinels"] == others
                })
            };
            self.running_sentinels().all(knows).then_some(())
        });
        seen.unwrap_or_else(|| panic!("the sentinels should see {name}"));
    }

    /// Who is connected over TCP but replicas, a replica's master and sentinels: the pools. `None`
    /// while the server is away.
    pub(crate) fn clients(server: &TestServer) -> Option<Vec<HashMap<String, String>>> {
        server.pid()?;
        let Ok(Reply::Text(list)) = server.admin().command(&["CLIENT", "LIST"]) else {
            return None;
        };
        let parsed = list.lines().map(|line| {
            let fields = line.split(' ').filter_map(|field| field.split_once('='));
            fields.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        });
        let ours = |client: &HashMap<String, String>| {
            // A replica, a master, a Unix socket.
            !client["flags"].contains(['S', 'M', 'U']) && !client["name"].starts_with("sentinel-")
        };
        Some(parsed.filter(ours).collect())
    }

    /// How often a failover of any master has been published since.
    ///
    /// # Panics
    /// If a sentinel that runs does not answer.
    #[track_caller]
    pub(crate) fn switches(&self) -> Switches {
        let heard = Arc::new(Mutex::new(Vec::new()));
        for (index, sentinel) in self.sentinels.iter().enumerate() {
            if !sentinel.is_running() {
                continue;
            }
            let password = self.settings.sentinel_password.as_deref();
            let opened = Connection::open(sentinel.socket_path(), password);
            let mut connection = opened.expect("the sentinel should take one more");
            connection.expect(&["SUBSCRIBE", "+switch-master"]).expect("a subscription");
            let heard = Arc::clone(&heard);
            // Ends with the sentinel.
            std::thread::spawn(move || listen(index, connection, &heard));
        }
        Switches { heard }
    }

    fn running_sentinels(&self) -> impl Iterator<Item = &TestServer> {
        self.sentinels.iter().filter(|sentinel| sentinel.is_running())
    }

    fn port_of(&self, server: &TestServer) -> u16 {
        if self.settings.tls { server.tls_port() } else { server.port() }
    }

    fn url(&self, sentinel: &TestServer, transport: Transport) -> String {
        let password = self.settings.sentinel_password.as_deref();
        let auth = password.map_or(Auth::None, Auth::Password);
        sentinel.url_with(transport, Resp::Resp2, auth, 0)
    }

    /// What all sentinels that run say, if it is the same.
    fn agreed(&self) -> Option<usize> {
        let mut words = self.running_sentinels().map(|sentinel| self.said_by(sentinel));
        let first = words.next()??;
        words.all(|word| word == Some(first)).then_some(first)
    }

    fn said_by(&self, sentinel: &TestServer) -> Option<usize> {
        let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name()];
        let reply = sentinel.admin().command(&question).ok()?.text();
        let port: u16 = reply.lines().nth(1)?.parse().ok()?;
        self.servers.iter().position(|server| self.port_of(server) == port)
    }

    fn is_whole(&self) -> bool {
        let Some(master) = self.agreed() else { return false };
        let running =
            |servers: &[TestServer]| servers.iter().filter(|server| server.is_running()).count();
        if !self.servers[master].is_running() {
            return false;
        }
        let (replicas, sentinels) = (running(&self.servers) - 1, running(&self.sentinels));
        let port = self.port_of(&self.servers[master]).to_string();
        let name = self.name();
        online(&self.servers[master]) >= replicas
            && self.running_sentinels().all(|sentinel| {
                let admin = sentinel.admin();
                let well = |list: &str, is: &dyn Fn(&HashMap<String, String>) -> bool| {
                    let listed = all_fields(admin, &["SENTINEL", list, name]);
                    listed.into_iter().filter(is).count()
                };
                let replica = |fields: &HashMap<String, String>| {
                    fields["flags"] == "slave"
                        && fields["master-link-status"] == "ok"
                        && fields["master-port"] == port
                };
                // Valkey 9 goes on saying what the other one thought of the master before.
                let other = |fields: &HashMap<String, String>| {
                    fields["flags"]
                        .split(',')
                        .all(|flag| ["sentinel", "master_down"].contains(&flag))
                };
                fields(admin, &["SENTINEL", "MASTER", name])
                    .is_some_and(|fields| fields["flags"] == "master")
                    && well("REPLICAS", &replica) == replicas
                    && well("SENTINELS", &other) == sentinels - 1
            })
    }

    /// For the message of a test that has failed.
    fn views(&self) -> String {
        let view = |sentinel: &TestServer| {
            let master = fields(sentinel.admin(), &["SENTINEL", "MASTER", self.name()]);
            let replicas = all_fields(sentinel.admin(), &["SENTINEL", "REPLICAS", self.name()]);
            let others = all_fields(sentinel.admin(), &["SENTINEL", "SENTINELS", self.name()]);
            format!("{master:#?}\n{replicas:#?}\n{others:#?}\n")
        };
        let views: String = self.running_sentinels().map(view).collect();
        let logs =
            self.servers.iter().map(|server| format!("{}:\n{}", server.port(), server.log()));
        views + &logs.collect::<String>()
    }

    fn down_after(&self, sentinel: usize) -> u32 {
        let down_after = self.settings.down_after_ms;
        if sentinel < QUORUM { down_after } else { 2 * down_after }
    }

    fn server_settings(&self) -> TestServerBuilder {
        let mut settings = self.settings.server.clone().arg("repl-diskless-sync-delay", "0");
        if let Some(password) = &self.settings.server_password {
            // The master may be a replica one day.
            settings = settings.password(password).arg("masterauth", &quoted(password));
        }
        // Whoever takes part in a failover writes its configuration down, and waits for the disk.
        settings = self.with_tls(settings).in_memory(true);
        match self.servers.first() {
            Some(master) => {
                settings.arg("replicaof", &format!("127.0.0.1 {}", self.port_of(master)))
            }
            None => settings,
        }
    }

    fn sentinel_settings(&self) -> TestServerBuilder {
        let Self { servers, settings, .. } = self;
        let name = &settings.name;
        let port = self.port_of(&servers[0]);
        let quorum = QUORUM.min(settings.sentinels);
        let down = self.down_after(self.sentinels.len());
        let mut sentinel = settings
            .sentinel
            .clone()
            .sentinel(true)
            .arg("sentinel monitor", &format!("{name} 127.0.0.1 {port} {quorum}"))
            .arg("sentinel down-after-milliseconds", &format!("{name} {down}"))
            .arg("sentinel failover-timeout", &format!("{name} {FAILOVER_TIMEOUT_MS}"))
            .arg("sentinel parallel-syncs", &format!("{name} 1"));
        if let Some(password) = &settings.server_password {
            sentinel = sentinel.arg("sentinel auth-pass", &format!("{name} {}", quoted(password)));
        }
        if let Some(password) = &settings.sentinel_password {
            sentinel = sentinel.password(password).arg("sentinel sentinel-pass", &quoted(password));
        }
        self.with_tls(sentinel).in_memory(true)
    }

    fn with_tls(&self, settings: TestServerBuilder) -> TestServerBuilder {
        if !self.settings.tls {
            return settings;
        }
        let settings = match self.servers.first() {
            Some(first) => settings.tls_of(first),
            None => settings.tls(true),
        };
        settings.arg("tls-replication", "yes")
    }

    /// Shorter times than an operator has them, so that a test does not wait for ten seconds until
    /// a sentinel looks again.
    fn hurry(&self, sentinel: &TestServer) {
        // Before that its periods are not to be changed.
        if program().redis_version() < SEVEN {
            return;
        }
        let publish = self.settings.publish_period_ms.to_string();
        for (name, value) in [
            ("info-period", "500"),
            // A replica is fit for a master if it has said in five of these how it is, and it is asked
            // every second while there is no master.
            ("ping-period", "300"),
            ("ask-period", "100"),
            ("publish-period", publish.as_str()),
            // A sentinel that has stood still trusts itself again after half a minute.
            ("tilt-period", "1000"),
            ("min-link-reconnect-period", "1000"),
        ] {
            sentinel.admin().text(&["SENTINEL", "DEBUG", name, value]);
        }
    }
}

/// What the sentinels have published of masters that moved.
#[derive(Debug)]
pub(crate) struct Switches {
    heard: Arc<Mutex<Vec<Switch>>>,
}

/// One `+switch-master` of one sentinel.
#[derive(Clone, Debug)]
pub(crate) struct Switch {
    pub(crate) at: Instant,
    /// The number of the sentinel.
    pub(crate) sentinel: usize,
    pub(crate) master: String,
    pub(crate) from: String,
    pub(crate) to: String,
}

impl Switches {
    pub(crate) fn heard(&self) -> Vec<Switch> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first of this master.
    pub(crate) fn first(&self, master: &str) -> Option<Switch> {
        self.heard().into_iter().find(|switch| switch.master == master)
    }
}

fn listen(sentinel: usize, mut connection: Connection, heard: &Mutex<Vec<Switch>>) {
    loop {
        let message = match connection.read_reply() {
            Ok(Reply::Array(message)) => message,
            Ok(_) => continue,
            // Nothing has been published for as long as a reply may take.
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        let at = Instant::now();
        let text = message.last().map(Reply::text).unwrap_or_default();
        let words: Vec<&str> = text.split(' ').collect();
        if let [master, from, from_port, to, to_port] = words[..] {
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(Switch {
                at,
                sentinel,
                master: master.to_owned(),
                from: format!("{from}:{from_port}"),
                to: format!("{to}:{to_port}"),
            });
        }
    }
}

/// Sentinels close all connections of a server whose role they change, the operator's, too: the next
/// command finds a new one.
fn renew(server: &TestServer) {
    let _ = server.admin().ping();
}

fn online(master: &TestServer) -> usize {
    let reply = master.admin().command(&["INFO", "replication"]);
    reply.map_or(0, |reply| reply.text().matches("state=online").count())
}

/// The fields of one thing a sentinel knows.
fn fields(sentinel: &Admin, question: &[&str]) -> Option<HashMap<String, String>> {
    match sentinel.command(question).ok()? {
        Reply::Array(items) => Some(paired(&items)),
        _ => None,
    }
}

/// The fields of each thing in a list.
fn all_fields(sentinel: &Admin, question: &[&str]) -> Vec<HashMap<String, String>> {
    let Ok(Reply::Array(list)) = sentinel.command(question) else { return Vec::new() };
    let each = list.iter().filter_map(|item| match item {
        Reply::Array(items) => Some(paired(items)),
        _ => None,
    });
    each.collect()
}

fn paired(items: &[Reply]) -> HashMap<String, String> {
    let pairs = items.chunks_exact(2).map(|pair| (pair[0].text(), pair[1].text()));
    pairs.collect()
}
