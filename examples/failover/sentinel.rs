//! A sentinel of our own, killed on drop.

use std::fs::{self, File};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::Failure;
use crate::server::{Admin, Reply, poll};
use crate::set::{PASSWORD, USER};

/// What the sentinels call the master they look after.
pub(crate) const MASTER: &str = "mymaster";

const START_LIMIT: Duration = Duration::from_secs(10);
/// Somebody may take a free port between our look at it and the sentinel's.
const PORT_TRIES: usize = 5;

pub(crate) struct Sentinel {
    pub(crate) port: u16,
    /// Over the Unix socket, so that it is none of the connections over TCP.
    admin: Admin,
    child: Child,
    folder: TempDir,
}

impl Sentinel {
    /// Starts one for the master at that port. Two have to agree that it is down.
    pub(crate) fn start(master: u16) -> Result<Self, Failure> {
        let mut tries = PORT_TRIES;
        loop {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let mut sentinel = Self::launch(port, master)?;
            let answered = poll(START_LIMIT, || match sentinel.child.try_wait() {
                Ok(None) => sentinel.admin.ping().is_ok().then_some(true),
                _ => Some(false),
            });
            if answered == Some(true) {
                return Ok(sentinel);
            }
            tries -= 1;
            if tries == 0 {
                let log = fs::read_to_string(sentinel.folder.path().join("sentinel.log"))?;
                return Err(format!("a sentinel did not start, its log:\n{log}").into());
            }
        }
    }

    fn launch(port: u16, master: u16) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("redis-guard-").tempdir()?;
        let dir = folder.path();
        let socket = dir.join("sentinel.sock");
        let config = format!(
            "bind 127.0.0.1\n\
             port {port}\n\
             dir {dir}\n\
             unixsocket {socket}\n\
             sentinel monitor {MASTER} 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds {MASTER} 1000\n\
             sentinel failover-timeout {MASTER} 3000\n\
             sentinel parallel-syncs {MASTER} 2\n\
             user {USER} on >{PASSWORD} ~* &* +@all\n",
            dir = dir.display(),
            socket = socket.display(),
        );
        fs::write(dir.join("sentinel.conf"), config)?;
        let log = File::create(dir.join("sentinel.log"))?;
        let program = std::env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let child = Command::new(&program)
            .arg(dir.join("sentinel.conf"))
            .arg("--sentinel")
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|e| format!("{program} --sentinel: {e}"))?;
        Ok(Self { port, admin: Admin::new(socket, None), child, folder })
    }

    pub(crate) fn command(&self, words: &[&str]) -> Result<Reply, Failure> {
        match self.admin.command(words).map_err(|e| format!("{words:?}: {e}"))? {
            Reply::Error(message) => Err(format!("{words:?}: {message}").into()),
            reply => Ok(reply),
        }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::copy(self.folder.path().join("sentinel.log"), format!("/tmp/hf/log-{}", self.port)); // TEMP
    }
}
