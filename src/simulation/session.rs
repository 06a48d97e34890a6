//! A connection as its server serves it: reads commands, and answers in order, as far as it is fated to.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::commands::{Reply, Session};
use super::resp;
use super::server::Fate;
use super::world::World;
use crate::dial::memory::{HangUp, Peer};

/// The server's end of a connection.
struct Served {
    world: Arc<World>,
    host: usize,
    dial: u64,
    peer: Peer,
    fate: Fate,
    sent: usize,
}

/// Serves a connection until it is closed. `is_full`: it is told that the server is, whether that is so or not.
pub(super) async fn serve(
    world: Arc<World>,
    host: usize,
    dial: u64,
    peer: Peer,
    fate: Fate,
    is_full: bool,
) {
    let mut served = Served { world, host, dial, peer, fate, sent: 0 };
    served.run(is_full).await;
    served.world.lock().hosts[host].connections.remove(&dial);
    served.peer.hang_up(HangUp::End);
}

impl Served {
    async fn run(&mut self, is_full: bool) {
        self.thaw().await;
        if !self.admit(is_full) {
            self.world.event("full", format_args!("h{} d{}", self.host, self.dial));
            let cluster = self.world.lock().shape.kind == super::shape::Kind::Cluster;
            let words = match cluster {
                true => "ERR max number of clients + cluster connections reached",
                false => "ERR max number of clients reached",
            };
            self.say(&resp::error(words)).await;
            if self.sent < words.len() + 3 {
                self.world.lock().count("half a refusal");
            }
            return;
        }
        let mut session = Session::new(self.host, self.dial);
        let mut input = Vec::new();
        loop {
            let Some(bytes) = self.peer.read(|| self.has_mail()).await else { return };
            self.thaw().await;
            if !self.deliver().await {
                return;
            }
            if self.is_mute() {
                continue;
            }
            if !bytes.is_empty() {
                let delay = self.world.lock().rng.u64(..1_500);
                // Most are answered at once.
                if delay < 700 {
                    tokio::time::sleep(Duration::from_micros(delay)).await;
                }
            }
            input.extend(bytes);
            while let Some(words) = resp::take_command(&mut input) {
                if self.peer.is_over() || !self.answer(&mut session, words).await {
                    return;
                }
            }
        }
    }

    /// Whether it is let in.
    fn admit(&self, is_full: bool) -> bool {
        let mut state = self.world.lock();
        let host = &mut state.hosts[self.host];
        let full = is_full || host.clients() >= host.maxclients;
        match host.connections.get_mut(&self.dial) {
            Some(connection) if !full => {
                connection.is_admitted = true;
                host.received += 1;
                true
            }
            Some(_) => {
                host.rejected += 1;
                false
            }
            // Closed meanwhile.
            None => false,
        }
    }

    /// Waits until the server works again.
    async fn thaw(&self) {
        loop {
            let until = self.world.lock().hosts[self.host].frozen_until;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    fn is_mute(&self) -> bool {
        let state = self.world.lock();
        let connection = state.hosts[self.host].connections.get(&self.dial);
        connection.is_some_and(|connection| connection.is_mute)
    }

    fn has_mail(&self) -> bool {
        let state = self.world.lock();
        let connection = state.hosts[self.host].connections.get(&self.dial);
        connection.is_some_and(|connection| !connection.mail.is_empty())
    }

    /// Sends what was published for it.
    async fn deliver(&mut self) -> bool {
        loop {
            let mail = {
                let mut state = self.world.lock();
                let connection = state.hosts[self.host].connections.get_mut(&self.dial);
                connection.and_then(|connection| connection.mail.pop_front())
            };
            match mail {
                Some(mail) if !self.say(&mail).await => return false,
                Some(_) => {}
                None => return true,
            }
        }
    }

    async fn answer(&mut self, session: &mut Session, words: resp::Words) -> bool {
        let (host, dial) = (self.host, self.dial);
        self.world.step(format_args!("h{host} d{dial} < {}", Line(&words)));
        let reply = session.reply(&self.world, &words);
        let bytes = match reply {
            Reply::Now(bytes) => bytes,
            Reply::Later(delay, bytes) => {
                if tokio::time::timeout(delay, self.peer.over()).await.is_ok() {
                    return false;
                }
                bytes
            }
        };
        self.thaw().await;
        self.say(&bytes).await
    }

    /// Sends as much of it as the connection is fated to; false once it is closed.
    async fn say(&mut self, bytes: &[u8]) -> bool {
        let (host, dial) = (self.host, self.dial);
        let end = match self.fate {
            Fate::Well => usize::MAX,
            Fate::Cut(end, _) | Fate::Mute(end) => end,
        };
        let whole = bytes.len().min(end.saturating_sub(self.sent));
        let split = {
            let mut state = self.world.lock();
            let split = state.rng.u32(..4) == 0 && whole > 1;
            split.then(|| state.rng.usize(1..whole))
        };
        if let Some(split) = split {
            self.peer.write(&bytes[..split]);
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
        self.peer.write(&bytes[split.unwrap_or(0)..whole]);
        self.sent += whole;
        if whole == bytes.len() {
            self.world.step(format_args!("h{host} d{dial} > {whole}"));
            return true;
        }
        match self.fate {
            Fate::Cut(at, how) => {
                self.world.event("cut", format_args!("h{host} d{dial} at {at}"));
                self.peer.hang_up(how);
                false
            }
            Fate::Mute(at) => {
                self.world.event("mute", format_args!("h{host} d{dial} at {at}"));
                let mut state = self.world.lock();
                if let Some(connection) = state.hosts[host].connections.get_mut(&dial) {
                    connection.is_mute = true;
                }
                true
            }
            Fate::Well => true,
        }
    }
}

/// A command in the log.
struct Line<'a>(&'a [Vec<u8>]);

impl std::fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for word in self.0 {
            let word = String::from_utf8_lossy(word);
            // Names differ from run to run.
            let word = if word.starts_with("redis-guard:") { "NAME".into() } else { word };
            write!(f, "{word} ")?;
        }
        Ok(())
    }
}
