//! Connections that do nothing but hold the server's slots.
#![allow(
    dead_code,
    reason = "every test, example and benchmark uses its own part of the support code"
)]

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{
    TestServer,
    admin::{Connection, Reply, poll},
};

/// `CLIENT LIST` shows occupants under names that start so.
pub(crate) const OCCUPANT_PREFIX: &str = "occupant:";
const GONE_LIMIT: Duration = Duration::from_secs(60);

/// Slots held by somebody else. Dropping them closes the connections; the server sees it a moment
/// later, which [`Occupants::free`] waits for.
#[derive(Debug)]
#[must_use = "the slots are free again when this is dropped"]
pub(crate) struct Occupants<'a> {
    server: &'a TestServer,
    prefix: String,
    connections: Vec<Connection>,
}

impl<'a> Occupants<'a> {
    pub(crate) fn none(server: &'a TestServer) -> Self {
        static GROUPS: AtomicU64 = AtomicU64::new(0);
        let prefix = format!("{OCCUPANT_PREFIX}{}:", GROUPS.fetch_add(1, Ordering::Relaxed));
        Self { server, prefix, connections: Vec::new() }
    }

    /// How many slots are held.
    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Takes slots until the server refuses one. That refusal is counted in `rejected_connections`.
    ///
    /// # Panics
    /// If a dial fails for another reason than a full server.
    #[track_caller]
    pub(crate) fn top_up(&mut self) {
        while self
            .take_one()
            .unwrap_or_else(|error| panic!("an occupant could not connect: {error}"))
        {}
    }

    /// Takes so many slots, without being refused.
    #[track_caller]
    pub(crate) fn take(&mut self, slots: usize) {
        for _ in 0..slots {
            let taken = self
                .take_one()
                .unwrap_or_else(|error| panic!("an occupant could not connect: {error}"));
            assert!(taken, "the server was full after {} occupants", self.len());
        }
    }

    /// Frees so many slots, and returns when the server has noticed.
    #[track_caller]
    pub(crate) fn release(&mut self, slots: usize) {
        let keep = self.len().saturating_sub(slots);
        self.connections.truncate(keep);
        let gone = || (self.server.admin().clients_named(&self.prefix) <= keep).then_some(());
        poll(GONE_LIMIT, gone).expect("the server still counts the occupants it has lost");
    }

    /// Frees all slots, and returns when the server has noticed.
    #[track_caller]
    pub(crate) fn free(mut self) {
        self.release(self.len());
    }

    /// `false` when the server is full.
    fn take_one(&mut self) -> io::Result<bool> {
        let name = format!("{}{}", self.prefix, self.len());
        let opened =
            Connection::open(self.server.socket_path(), None).and_then(|mut connection| {
                let mut reply = connection.command(&["PING"])?;
                if let (Some(password), true) = (self.server.password(), is_noauth(&reply)) {
                    reply = connection.expect(&["AUTH", password])?;
                }
                Ok((connection, reply))
            });
        match opened {
            Ok((_, Reply::Error(message))) if message.contains("max number of clients") => {
                Ok(false)
            }
            Ok((_, Reply::Error(message))) => Err(io::Error::other(message)),
            Ok((mut connection, _)) => {
                connection.expect(&["CLIENT", "SETNAME", &name])?;
                self.connections.push(connection);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }
}

fn is_noauth(reply: &Reply) -> bool {
    matches!(reply, Reply::Error(message) if message.starts_with("NOAUTH"))
}
