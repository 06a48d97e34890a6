//! Who is connected without a guard: a service of which one instance leaks, consumers, a newcomer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::crowd::Crowd;
use crate::server::TestServer;

/// Instances of `checkout`, at 127.0.0.11 and up, and what a pool of theirs holds.
pub(crate) const INSTANCES: u8 = 6;
pub(crate) const POOL: usize = 20;
const FIRST: u8 = 11;
/// The one that leaks.
const LEAKING: u8 = 14;

/// Consumers of `worker`, from one address.
pub(crate) const WORKERS: usize = 40;
const WORKER: u8 = 21;

/// What the new instance of `search` wants, and how often it dials while it is refused: at a fixed
/// rate, for ever.
pub(crate) const WANTED: usize = 12;
const SEARCH: u8 = 31;
pub(crate) const REDIAL: Duration = Duration::from_millis(250);

/// Every connection that is in use asks something so often.
const BUSY: Duration = Duration::from_millis(200);
/// After a refusal the instance that leaks fails a request, and comes back with the next.
const AFTER_REFUSAL: Duration = Duration::from_millis(500);
/// An instance that starts is refused until the server has seen that its predecessor has gone.
const RESTART_TRIES: usize = 100;

/// Everybody. All are gone when it is dropped.
pub(crate) struct Cast<'a> {
    server: &'a TestServer,
    _healthy: Vec<Crowd>,
    leaking: Option<Leaking>,
    _workers: Crowd,
    newcomer: Option<Growing>,
    restarted: Option<Crowd>,
}

/// Its pool works; what it takes beside that is never used again.
struct Leaking {
    _pool: Crowd,
    _leaked: Growing,
}

impl<'a> Cast<'a> {
    pub(crate) fn enter(server: &'a TestServer) -> Self {
        let hosts = (FIRST..FIRST + INSTANCES).filter(|host| *host != LEAKING);
        server.admin().text(&["CLIENT", "SETNAME", "console"]);
        let workers = Crowd::from(server, WORKER).named("worker").open(WORKERS);
        Self {
            server,
            _healthy: hosts.map(|host| instance(server, host)).collect(),
            leaking: None,
            _workers: workers.block_in(server, &["BLPOP", "jobs", "0"]),
            newcomer: None,
            restarted: Some(instance(server, LEAKING)),
        }
    }

    /// From now on one of the instances takes one connection more in each `interval`.
    pub(crate) fn leak(&mut self, interval: Duration) {
        let Some(pool) = self.restarted.take() else { return };
        let pace = Pace { between: interval, refused: AFTER_REFUSAL.max(interval), most: None };
        let leaked = Crowd::from(self.server, LEAKING).named("checkout");
        self.leaking = Some(Leaking { _pool: pool, _leaked: Growing::start(leaked, pace) });
    }

    /// A new instance of `search` comes up.
    pub(crate) fn newcomer(&mut self) {
        let pace = Pace { between: REDIAL, refused: REDIAL, most: Some(WANTED) };
        let crowd = Crowd::from(self.server, SEARCH).named("search").busy_every(BUSY);
        self.newcomer = Some(Growing::start(crowd, pace));
    }

    /// Stops the instance that leaks, and starts it again, for now without its leak.
    pub(crate) fn restart(&mut self) {
        self.leaking = None;
        // Its pool comes up once the server has noticed.
        let pool = Crowd::from(self.server, LEAKING).named("checkout").busy_every(BUSY);
        for _ in 0..RESTART_TRIES {
            if pool.len() == POOL {
                break;
            }
            if pool.try_add().is_err() {
                thread::sleep(BUSY);
            }
        }
        self.restarted = Some(pool);
    }

    pub(crate) fn leaking_address() -> String {
        format!("127.0.0.{LEAKING}")
    }

    /// What the newcomer has, and how often it was refused.
    pub(crate) fn newcomer_has(&self) -> (usize, u64) {
        let count =
            |growing: &Growing| (growing.crowd.len(), growing.refused.load(Ordering::SeqCst));
        self.newcomer.as_ref().map_or((0, 0), count)
    }
}

fn instance(server: &TestServer, host: u8) -> Crowd {
    Crowd::from(server, host).named("checkout").open(POOL).busy_every(BUSY)
}

/// When the next one is opened, and how many there will be.
#[derive(Clone, Copy)]
struct Pace {
    between: Duration,
    refused: Duration,
    most: Option<usize>,
}

/// A crowd that opens one connection after the other. It stops, and all are closed, when dropped.
struct Growing {
    crowd: Arc<Crowd>,
    refused: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Growing {
    fn start(crowd: Crowd, pace: Pace) -> Self {
        let crowd = Arc::new(crowd);
        let (stop, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let growing = (Arc::clone(&crowd), Arc::clone(&stop), Arc::clone(&refused));
        let thread = thread::spawn(move || {
            let (crowd, stop, refused) = growing;
            while !stop.load(Ordering::SeqCst) {
                let wants_more = pace.most.is_none_or(|most| crowd.len() < most);
                if wants_more && crowd.try_add().is_err() {
                    refused.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(pace.refused);
                } else {
                    thread::sleep(pace.between);
                }
            }
        });
        Self { crowd, refused, stop, thread: Some(thread) }
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
