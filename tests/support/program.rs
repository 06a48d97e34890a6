//! What the server program is that the tests start, and what it can: asked of the program itself, once.
//!
//! `REDIS_SERVER` is its path; without it, `redis-server` on the path.
#![allow(
    dead_code,
    reason = "every test, example and benchmark uses its own part of the support code"
)]

use std::env;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::thread;

use super::StartError;

/// Redis 7.0, which brought much of what tests look at.
pub(crate) const SEVEN: (u32, u32) = (7, 0);
/// What [`restart_into_loading`](super::TestServer::restart_into_loading) needs, of [`SEVEN`].
pub(crate) const LOADS_SLOWLY: &str = "loading-process-events-interval-bytes";

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    Redis,
    Valkey,
    KeyDb,
}

#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) path: String,
    pub(crate) maker: Maker,
    /// In its maker's own count.
    pub(crate) version: (u32, u32, u32),
}

impl Program {
    /// The one that the tests start.
    ///
    /// # Errors
    /// There is none, or it does not say what it is.
    pub(crate) fn get() -> Result<&'static Self, StartError> {
        static PROGRAM: OnceLock<Program> = OnceLock::new();
        match PROGRAM.get() {
            Some(program) => Ok(program),
            None => {
                let path = env::var("REDIS_SERVER").ok().filter(|path| !path.is_empty());
                let program = Self::ask(path.unwrap_or_else(|| "redis-server".to_owned()))?;
                Ok(PROGRAM.get_or_init(|| program))
            }
        }
    }

    fn ask(path: String) -> Result<Self, StartError> {
        let output = match Command::new(&path).arg("--version").output() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StartError::NotInstalled { program: path });
            }
            output => output?,
        };
        let text = String::from_utf8_lossy(&output.stdout);
        Self::parse(&text)
            .map(|(maker, version)| Self { path: path.clone(), maker, version })
            .ok_or_else(|| io::Error::other(format!("{path} --version said {text:?}")).into())
    }

    /// `Redis server v=7.0.15 sha=…`.
    fn parse(text: &str) -> Option<(Maker, (u32, u32, u32))> {
        let maker = match text.split_whitespace().next()? {
            "Redis" => Maker::Redis,
            "Valkey" => Maker::Valkey,
            "KeyDB" => Maker::KeyDb,
            _ => return None,
        };
        let version = text.split_whitespace().find_map(|word| word.strip_prefix("v="))?;
        let mut numbers = version.split('.').map_while(|number| number.parse().ok());
        let version = (numbers.next()?, numbers.next()?, numbers.next().unwrap_or(0));
        Some((maker, version))
    }

    /// The version of Redis that it is, or grew out of and is compatible with.
    pub(crate) fn redis_version(&self) -> (u32, u32) {
        match self.maker {
            Maker::Redis => (self.version.0, self.version.1),
            Maker::Valkey => (7, 2),
            Maker::KeyDb => (6, 2),
        }
    }

    /// True for Valkey from this version on.
    pub(crate) fn is_valkey(&self, major: u32, minor: u32) -> bool {
        self.maker == Maker::Valkey && (self.version.0, self.version.1) >= (major, minor)
    }

    /// True where it can speak TLS. A server without it says so at start; to be asked with CONFIG SET
    /// tls-port ends some.
    pub(crate) fn has_tls(&self) -> bool {
        static TLS: OnceLock<bool> = OnceLock::new();
        *TLS.get_or_init(|| {
            // Without a certificate none starts; one that can speak TLS asks for it.
            let mut server = Command::new(&self.path);
            server.args(["--port", "0", "--tls-port", "1", "--save", ""]).stdin(Stdio::null());
            let output = server.output();
            output.is_ok_and(|output| {
                String::from_utf8_lossy(&output.stdout).contains("tls-cert-file")
            })
        })
    }
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let maker = match self.maker {
            Maker::Redis => "Redis",
            Maker::Valkey => "Valkey",
            Maker::KeyDb => "KeyDB",
        };
        let (major, minor, patch) = self.version;
        write!(f, "{maker} {major}.{minor}.{patch}")
    }
}

/// The program, in a test that cannot go on without one.
#[track_caller]
pub(crate) fn program() -> &'static Program {
    Program::get().unwrap_or_else(|error| panic!("{error}"))
}

/// Says that this test, or a part of it, is skipped, and why. Not by `eprintln`, which the harness keeps to
/// itself while a test passes.
pub(crate) fn skip(reason: &str) {
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(io::stderr(), "skipped: {test}: {reason}");
}

/// True, and said aloud, where the server has no TLS.
#[track_caller]
pub(crate) fn lacks_tls() -> bool {
    let lacks = !program().has_tls();
    if lacks {
        skip(&format!("{} has no TLS here", program()));
    }
    lacks
}

/// True, and said aloud, where the server is older than the Redis that `what` came with.
#[track_caller]
pub(crate) fn lacks(what: &str, since: (u32, u32)) -> bool {
    let lacks = program().redis_version() < since;
    if lacks {
        skip(&format!("{} has no {what}, which came with {}.{}", program(), since.0, since.1));
    }
    lacks
}
