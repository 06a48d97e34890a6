//! What is known of sentinels, or of a cluster, before the pool is built.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use redis::io::tcp::TcpSettings;
use redis::{ConnectionAddr, ConnectionInfo};

use crate::dial::{Address, Certificates, Login, Target};
use crate::policy::{Problems, ReplicaReads};
use crate::vocabulary::words::host_and_port;

/// By what a cluster announces, a host or a host and a port: what is dialed in its place.
pub(in crate::pool) type Names = HashMap<String, (String, Option<u16>)>;

/// What a pool was given of a cluster.
#[derive(Debug)]
pub(in crate::pool) struct ClusterSettings {
    pub(in crate::pool) seeds: Vec<Result<ConnectionInfo, String>>,
    /// What the cluster announces, and what is dialed in its place.
    pub(in crate::pool) names: Vec<(String, String)>,
    pub(in crate::pool) replica_reads: ReplicaReads,
}

impl ClusterSettings {
    /// Where the seeds are, each once; or all that is not usable.
    pub(in crate::pool) fn seeds(
        &self,
        certificates: Option<&Certificates>,
    ) -> Result<Vec<Address>, Vec<String>> {
        let (mut seeds, mut problems) = (Vec::<Address>::new(), Vec::new());
        for seed in &self.seeds {
            let address = seed.as_ref().map_err(Clone::clone);
            match address.and_then(|info| Address::new(info.addr(), certificates)) {
                Ok(Address::Unix(_)) => {
                    problems
                        .push("a cluster's nodes have no Unix sockets for one another".to_owned());
                }
                Ok(address)
                    if seeds.iter().any(|other| other.to_string() == address.to_string()) => {}
                Ok(address) => seeds.push(address),
                Err(problem) => problems.push(format!("a node's URL is not usable: {problem}")),
            }
        }
        if seeds.is_empty() && problems.is_empty() {
            problems.push("no node of the cluster is given".to_owned());
        }
        if problems.is_empty() { Ok(seeds) } else { Err(problems) }
    }

    /// By what is announced: what to dial.
    pub(in crate::pool) fn names(&self) -> Result<Names, Vec<String>> {
        let (mut names, mut problems) = (HashMap::new(), Vec::new());
        for (announced, dialed) in &self.names {
            match (split(announced), split(dialed)) {
                (Some((host, port)), Some(dialed)) => {
                    let announced = match port {
                        Some(port) => host_and_port(&host, port),
                        None => host,
                    };
                    names.insert(announced, dialed);
                }
                _ => problems.push(format!(
                    "map_address: {announced:?} and {dialed:?} are to be a host, or a host and a port, each"
                )),
            }
        }
        if problems.is_empty() { Ok(names) } else { Err(problems) }
    }
}

/// A host and a port, or a host; an IPv6 address with a port stands in brackets.
fn split(text: &str) -> Option<(String, Option<u16>)> {
    let is_host = |host: &str| !host.is_empty() && !host.contains(char::is_whitespace);
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']')? {
            (host, "") => (host, None),
            (host, port) => (host, Some(port.strip_prefix(':')?)),
        },
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => (text, None),
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port
        .map(|port| port.parse().ok().filter(|port| *port != 0))
        .map_or(Some(None), |port| port.map(Some))?;
    is_host(host).then(|| (host.to_owned(), port))
}

/// The sentinels that a pool was given, and how they are spoken to.
#[derive(Debug)]
pub(in crate::pool) struct SentinelSettings {
    sentinels: Vec<Result<ConnectionInfo, String>>,
    /// The name that they know the master by.
    pub(in crate::pool) master: String,
    pub(in crate::pool) client_name: Option<String>,
    pub(in crate::pool) certificates: Option<Certificates>,
}

impl SentinelSettings {
    pub(in crate::pool) fn new(
        sentinels: Vec<Result<ConnectionInfo, String>>,
        master: String,
    ) -> Self {
        Self { sentinels, master, client_name: None, certificates: None }
    }

    /// Checks the settings, apart from the addresses.
    pub(in crate::pool) fn check(&self, problems: &mut Problems) {
        if self.sentinels.is_empty() {
            problems.add("no sentinel is given, so nobody could say where the server is");
        }
        if self.master.is_empty()
            || self.master.contains(|c: char| c.is_whitespace() || c.is_control())
        {
            problems.add(format!("{:?} is no master's name", self.master));
        }
        if let Some(name) = &self.client_name
            && (name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            problems.add("sentinel_client_name must be printable ASCII without spaces");
        }
    }

    /// What redis-rs was told of the sockets to sentinels, by the first of them.
    pub(in crate::pool) fn tcp(&self) -> TcpSettings {
        let first = self.sentinels.iter().flatten().next();
        first.map(|info| info.tcp_settings().clone()).unwrap_or_default()
    }

    /// Whom to trust that speaks for the sentinels, and who we are to them: equal only where that is equal.
    pub(in crate::pool) fn trust(&self, certificates: Option<&Certificates>) -> u64 {
        let mut hasher = DefaultHasher::new();
        hash(self.certificates.as_ref().or(certificates), &mut hasher);
        let mut sentinels = self.sentinels.iter().flatten();
        let insecure = |info: &ConnectionInfo| {
            matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. })
        };
        sentinels.any(insecure).hash(&mut hasher);
        hasher.finish()
    }

    /// Where the sentinels are, each once, and what they are logged in to with; or all that is not usable.
    pub(in crate::pool) fn targets(
        &self,
        certificates: Option<&Certificates>,
    ) -> Result<Vec<(Target, Login)>, Vec<String>> {
        let certificates = self.certificates.as_ref().or(certificates);
        let mut problems = Vec::new();
        let mut targets: Vec<(Target, Login)> = Vec::new();
        for sentinel in &self.sentinels {
            let target = sentinel.as_ref().map_err(Clone::clone).and_then(|info| {
                let target = Target::new(Address::new(info.addr(), certificates)?);
                Ok((target, Login::new(info.redis_settings().clone())))
            });
            match target {
                Ok((target, login)) => {
                    if !targets.iter().any(|(other, _)| other.name == target.name) {
                        targets.push((target, login));
                    }
                }
                Err(problem) => problems.push(format!("a sentinel's URL is not usable: {problem}")),
            }
        }
        if problems.is_empty() { Ok(targets) } else { Err(problems) }
    }
}

#[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
fn hash(certificates: Option<&Certificates>, hasher: &mut DefaultHasher) {
    let client = certificates.and_then(|certificates| certificates.client_tls.as_ref());
    certificates.map(|certificates| &certificates.root_cert).hash(hasher);
    client.map(|client| (&client.client_cert, &client.client_key)).hash(hasher);
}

#[cfg(not(any(feature = "tls-rustls", feature = "tls-native-tls")))]
fn hash(_: Option<&Certificates>, _: &mut DefaultHasher) {}
