//! What is known of sentinels before the pool is built.

use std::hash::{DefaultHasher, Hash, Hasher};

use redis::{ConnectionAddr, ConnectionInfo};

use crate::dial::{Address, Certificates, Login, Target};
use crate::policy::Problems;

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
