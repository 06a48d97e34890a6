//! Who we are to a server: the credentials and the settings of a session.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::{Pipeline, RedisConnectionInfo};

/// What a dial logs in with.
pub(crate) struct Login {
    pub(crate) redis: RedisConnectionInfo,
    /// A live connection was refused with it.
    refused: AtomicBool,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("username", &self.redis.username()).finish_non_exhaustive()
    }
}

impl Login {
    pub(crate) fn new(redis: RedisConnectionInfo) -> Self {
        Self { redis, refused: AtomicBool::new(false) }
    }

    /// The same session with other credentials.
    pub(crate) fn with(&self, username: Option<&str>, password: &str) -> Self {
        let before = &self.redis;
        // Anew, for there is no way to take a name away.
        let mut redis = RedisConnectionInfo::default()
            .set_db(before.db())
            .set_protocol(before.protocol())
            .set_password(password);
        if let (Some(name), Some(version)) = (before.lib_name(), before.lib_ver()) {
            redis = redis.set_lib_name(name, version);
        }
        if before.skip_set_lib_name() {
            redis = redis.set_skip_set_lib_name();
        }
        if let Some(username) = username {
            redis = redis.set_username(username);
        }
        Self::new(redis)
    }

    pub(crate) fn has(&self, username: Option<&str>, password: &str) -> bool {
        self.redis.username() == username && self.redis.password() == Some(password)
    }

    /// Authenticates a connection again; `None` without a password.
    pub(crate) fn auth(&self) -> Option<Pipeline> {
        let mut auth = redis::pipe();
        auth.cmd("AUTH").arg(self.redis.username()).arg(self.redis.password()?);
        Some(auth)
    }

    /// Notes that a live connection was refused; true for the first.
    pub(crate) fn is_first_refusal(&self) -> bool {
        !self.refused.swap(true, Ordering::Relaxed)
    }

    /// Makes a message fit for a log line: without the password, without the arguments that some
    /// servers echo of a command they do not know (AUTH's are the password, perhaps cut short),
    /// on one line and of bounded length.
    pub(crate) fn redact(&self, message: String) -> String {
        const LONGEST: usize = 256;
        let said = message.split("with args beginning with").next().unwrap_or_default();
        let said = said.trim_end_matches([',', ' ']);
        let said = match self.redis.password() {
            Some(password) if !password.is_empty() => said.replace(password, "***"),
            _ => said.to_owned(),
        };
        said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
    }
}
