//! A node whose server moves, on real redis-servers.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::cmd;

use super::place::{Place, Resolve, Resolving};
use crate::dial::{Address, Target};
use crate::pool::{GuardedConnection, GuardedPool};
use crate::server::Server;
use crate::vocabulary::DialFailure;
use crate::{CloseReason, Event, Outcome};

/// A redis-server on a socket of its own.
struct Redis {
    process: Child,
    folder: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("redis.sock");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { process, folder }
    }

    fn socket(&self) -> String {
        self.folder.path().join("redis.sock").display().to_string()
    }

    fn place(&self) -> Arc<Place> {
        let address = Address::Unix(Path::new(&self.socket()).to_owned());
        let server = Server::shared(&address, 7);
        Arc::new(Place::new(Target::new(address), server))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Says what it was told last.
#[derive(Clone, Debug)]
struct Told(Arc<Mutex<Result<Arc<Place>, DialFailure>>>);

impl Resolve for Told {
    fn resolve(&self) -> Resolving<'_> {
        Box::pin(std::future::ready(self.0.lock().unwrap().clone()))
    }
}

fn pool(first: &Redis) -> (GuardedPool, Told) {
    let told = Told(Arc::new(Mutex::new(Ok(first.place()))));
    let topology = told.clone();
    let builder = GuardedPool::builder(format!("unix://{}", first.socket())).watch(false);
    (builder.build_at(first.place(), Box::new(topology), 7), told)
}

/// The socket of the server that a lease is on.
async fn server_of(lease: &mut GuardedConnection) -> String {
    let settings: Vec<String> =
        cmd("CONFIG").arg("GET").arg("unixsocket").query_async(lease).await.unwrap();
    settings[1].clone()
}

#[tokio::test]
async fn dials_follow_the_server_and_what_is_open_to_the_one_before_is_cut() {
    let (old, new) = (Redis::start(), Redis::start());
    let (pool, told) = pool(&old);
    let mut before = pool.acquire("test").await.unwrap();
    assert_eq!(server_of(&mut before).await, old.socket());

    *told.0.lock().unwrap() = Ok(new.place());
    let mut events = pool.events();
    let mut after = pool.acquire("test").await.unwrap();

    assert_eq!(server_of(&mut after).await, new.socket());
    assert_eq!(&*pool.status().server, new.socket());
    loop {
        if let Event::ConnectionClosed { server, reason, .. } = events.next().await.unwrap() {
            assert_eq!((&*server, reason), (&*old.socket(), CloseReason::Replaced));
            break;
        }
    }
    let cut = cmd("PING").query_async::<String>(&mut before).await.unwrap_err();
    assert!(cut.is_unrecoverable_error() || cut.is_io_error(), "{cut}");
    drop((before, after));
    let mut next = pool.acquire("test").await.unwrap();
    assert_eq!(server_of(&mut next).await, new.socket());
}

#[tokio::test]
async fn a_server_that_cannot_be_found_fails_callers_and_is_looked_for_again() {
    let redis = Redis::start();
    let (pool, told) = pool(&redis);
    let place = told.0.lock().unwrap().clone();
    let lost = DialFailure::new("sentinel", Outcome::Unreachable, "no such master");
    *told.0.lock().unwrap() = Err(lost);

    let error = pool.acquire("test").await.unwrap_err();

    assert!(error.to_string().contains("no such master"), "{error}");
    *told.0.lock().unwrap() = place;
    while pool.acquire("test").await.is_err() {
        tokio::task::yield_now().await;
    }
}
