//! The scripted servers from outside: who is let in, and what becomes of connections.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use super::session;
use super::world::{State, World};
use crate::dial::memory::{Connecting, HangUp, Network, Peer, pipe};

pub(super) const PORT: u16 = 6379;

/// Slots of a server that is not short of them.
pub(super) const PLENTY: usize = 1_000;

/// One server.
pub(super) struct Host {
    pub(super) is_sentinel: bool,
    /// It listens.
    pub(super) is_up: bool,
    /// Packets reach it.
    pub(super) is_reachable: bool,
    /// It does nothing until then.
    pub(super) frozen_until: Instant,
    pub(super) loading_until: Instant,
    pub(super) maxclients: usize,
    /// Clients of others.
    pub(super) foreign: usize,
    pub(super) rejected: u64,
    pub(super) received: u64,
    /// How often it was started.
    pub(super) run: u64,
    /// Writes are refused, whatever the shape says: it was demoted, and nobody was told.
    pub(super) is_demoted: bool,
    /// Client ends that are open, from the first packet on.
    pub(super) held: usize,
    /// Dials so far.
    pub(super) dials: u64,
    pub(super) connections: BTreeMap<u64, Connection>,
}

/// A connection as its server has it.
pub(super) struct Connection {
    pub(super) peer: Peer,
    /// It counts among the clients.
    pub(super) is_admitted: bool,
    /// What was published for it, and is not sent yet.
    pub(super) mail: VecDeque<Vec<u8>>,
    pub(super) channels: BTreeSet<String>,
    /// Nothing that it says arrives.
    pub(super) is_mute: bool,
}

/// How likely it is that something goes wrong with a dial, of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    /// Refused as by a full server.
    pub(super) full: u32,
    /// Closed after so many bytes, as many as a greeting has, or a few replies.
    pub(super) cut: u32,
    /// Silent after as many.
    pub(super) mute: u32,
    /// Nobody listens.
    pub(super) refused: u32,
    /// Packets are lost.
    pub(super) lost: u32,
    /// A reply takes longer than anybody waits.
    pub(super) slow: u32,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Well,
    /// Closed when that many bytes were sent.
    Cut(usize, HangUp),
    /// Nothing more arrives then.
    Mute(usize),
}

impl Weather {
    pub(super) fn bad(rng: &mut Rng) -> Self {
        let mut likely = |most| if rng.bool() { 0 } else { rng.u32(0..most) };
        Self {
            full: likely(400),
            cut: likely(500),
            mute: likely(200),
            refused: likely(300),
            lost: likely(200),
            slow: likely(10),
        }
    }
}

impl Host {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            is_sentinel: false,
            is_up: true,
            is_reachable: true,
            frozen_until: now,
            loading_until: now,
            maxclients: PLENTY,
            foreign: 0,
            rejected: 0,
            received: 0,
            run: 1,
            is_demoted: false,
            held: 0,
            dials: 0,
            connections: BTreeMap::new(),
        }
    }

    /// Clients, as INFO counts them.
    pub(super) fn clients(&self) -> usize {
        let admitted = self.connections.values().filter(|connection| connection.is_admitted);
        admitted.count() + self.foreign
    }

    /// Closes those connections.
    pub(super) fn hang_up(&mut self, how: HangUp, mut which: impl FnMut(u64) -> bool) -> usize {
        let doomed: Vec<u64> =
            self.connections.keys().copied().filter(|number| which(*number)).collect();
        for number in &doomed {
            if let Some(connection) = self.connections.remove(number) {
                connection.peer.hang_up(how);
            }
        }
        doomed.len()
    }
}

/// The network that the pools dial in.
pub(super) struct Net(pub(super) Arc<World>);

/// A client's end, from the first packet until it is closed.
struct Held {
    world: Arc<World>,
    host: usize,
    dial: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Looked at while it is still open: its slot must not be free yet.
        self.world.step(format_args!("h{} d{} closed by the client", self.host, self.dial));
        self.world.lock().hosts[self.host].held -= 1;
    }
}

/// What comes of a dial.
enum Dialed {
    Refused,
    Lost,
    Accepted(Fate, bool, Duration),
}

impl Network for Net {
    fn connect(&self, address: SocketAddr) -> Connecting {
        let world = Arc::clone(&self.0);
        let host = world.host_at(address);
        Box::pin(async move {
            let Some(host) = host else {
                world.fail(format!("{address} was dialed, where nobody is"));
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let (held, dialed) = {
                let mut state = world.lock();
                let dial = state.new_connection();
                state.hosts[host].held += 1;
                state.hosts[host].dials += 1;
                let held = Held { world: Arc::clone(&world), host, dial };
                (held, dial_of(&mut state, host))
            };
            let dial = held.dial;
            match dialed {
                Dialed::Refused => {
                    world.event("refused", format_args!("h{host} d{dial}"));
                    Err(io::ErrorKind::ConnectionRefused.into())
                }
                Dialed::Lost => {
                    world.event("lost", format_args!("h{host} d{dial}"));
                    std::future::pending().await
                }
                Dialed::Accepted(fate, is_full, delay) => {
                    world.event("dialed", format_args!("h{host} d{dial} {fate:?}"));
                    tokio::time::sleep(delay).await;
                    let (pipe, peer) = pipe(move || drop(held));
                    let connection = Connection {
                        peer: peer.clone(),
                        is_admitted: false,
                        mail: VecDeque::new(),
                        channels: BTreeSet::new(),
                        is_mute: false,
                    };
                    world.lock().hosts[host].connections.insert(dial, connection);
                    let session =
                        session::serve(Arc::clone(&world), host, dial, peer, fate, is_full);
                    tokio::spawn(session);
                    Ok(pipe)
                }
            }
        })
    }
}

/// What comes of a dial now.
fn dial_of(state: &mut State, host: usize) -> Dialed {
    let State { rng, hosts, weather, .. } = state;
    let Host { is_up, is_reachable, .. } = hosts[host];
    let mut happens = |likely| rng.u32(..1_000) < likely;
    if !is_reachable || happens(weather.lost) {
        return Dialed::Lost;
    }
    if !is_up || happens(weather.refused) {
        return Dialed::Refused;
    }
    let (is_full, cut, mute) = (happens(weather.full), happens(weather.cut), happens(weather.mute));
    // A greeting has some 40 bytes in RESP2, and 150 in RESP3.
    let bytes = if rng.bool() { rng.usize(..170) } else { rng.usize(..3_000) };
    let fate = match (cut, mute) {
        (true, _) => Fate::Cut(bytes, if rng.bool() { HangUp::End } else { HangUp::Reset }),
        (_, true) => Fate::Mute(bytes),
        _ => Fate::Well,
    };
    Dialed::Accepted(fate, is_full, Duration::from_micros(rng.u64(..800)))
}
