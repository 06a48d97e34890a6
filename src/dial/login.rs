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

#[cfg(test)]
mod tests {
    use redis::ProtocolVersion;

    use super::*;

    fn login(username: Option<&str>, password: &str) -> Login {
        let session = RedisConnectionInfo::default().set_db(3).set_protocol(ProtocolVersion::RESP3);
        Login::new(session).with(username, password)
    }

    #[test]
    fn other_credentials_change_nothing_else_of_the_session() {
        let named = RedisConnectionInfo::default().set_db(3).set_lib_name("shop", "1.2");
        let quiet = RedisConnectionInfo::default().set_skip_set_lib_name();
        for before in [named, quiet, RedisConnectionInfo::default()] {
            let first = Login::new(before.clone()).with(Some("app"), "one");
            assert!(first.has(Some("app"), "one"));
            let login = first.with(None, "two");
            assert!(login.has(None, "two"), "the name before is gone");
            let facts = |redis: &RedisConnectionInfo| {
                let library = redis.lib_name().map(str::to_owned);
                (redis.db(), library, redis.skip_set_lib_name())
            };
            assert_eq!(facts(&login.redis), facts(&before));
        }
        assert_eq!(login(None, "two").redis.protocol(), ProtocolVersion::RESP3);
    }

    #[test]
    fn credentials_are_the_same_only_if_name_and_password_are() {
        let login = login(Some("app"), "secret");
        assert!(!login.has(Some("app"), "other") && !login.has(None, "secret"));
    }

    #[test]
    fn a_connection_logs_in_again_where_there_is_a_password() {
        let packed = |login: &Login| login.auth().map(|auth| auth.get_packed_pipeline());
        let with = |words: &[&str]| Some(redis::cmd("AUTH").arg(words).get_packed_command());
        assert_eq!(packed(&login(Some("app"), "secret")), with(&["app", "secret"]));
        assert_eq!(packed(&login(None, "secret")), with(&["secret"]));
        assert_eq!(packed(&Login::new(RedisConnectionInfo::default())), None);
    }

    #[test]
    fn only_the_first_refusal_is_news() {
        let login = login(None, "secret");
        assert_eq!([login.is_first_refusal(), login.is_first_refusal()], [true, false]);
    }

    #[test]
    fn no_text_shows_the_password() {
        let login = login(Some("app"), "secret");
        assert!(format!("{login:?}").contains("app") && !format!("{login:?}").contains("secret"));
        for (said, shown) in [
            ("ERR 'secret' is no word\r\nof ours", "ERR '***' is no word  of ours"),
            (
                "ERR unknown command 'AUTH', with args beginning with: 'secr",
                "ERR unknown command 'AUTH'",
            ),
        ] {
            assert_eq!(login.redact(said.to_owned()), shown);
        }
        let without = Login::new(RedisConnectionInfo::default());
        let empty = without.with(None, "");
        for login in [without, empty] {
            assert_eq!(login.redact("ERR no".to_owned()), "ERR no");
            assert_eq!(login.redact("x".repeat(1_000)).len(), 256);
        }
    }
}
