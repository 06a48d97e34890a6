//! How the process of a [`TestServer`](super::TestServer) comes up: its settings, ports and
//! certificates.

use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::TestServerBuilder;
use super::admin::{Admin, Reply, poll};
use super::program::Program;

pub(super) const START_LIMIT: Duration = Duration::from_secs(10);
/// Below Linux's ephemeral range (32768 and up): a dial to a stopped server must never connect to
/// itself.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) plain: u16,
    pub(super) tls: u16,
    pub(super) bus: u16,
}

/// Starts the process and waits until the answer to a `PING` is one that `ready` likes.
pub(super) fn launch(
    program: &str,
    settings: &TestServerBuilder,
    dir: &Path,
    admin: &Admin,
    ready: &dyn Fn(&Reply) -> bool,
) -> Result<Child, StartError> {
    let log = File::create(dir.join("redis.log"))?;
    let mut child = command(program, settings.open_files)
        .arg(dir.join("redis.conf"))
        .args(settings.sentinel.then_some("--sentinel"))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let answered = poll(START_LIMIT, || match child.try_wait() {
        Ok(None) => admin.ping().is_ok_and(|reply| ready(&reply)).then_some(Ok(())),
        Ok(Some(status)) => Some(Err(status)),
        Err(_) => None,
    });
    let log = || fs::read_to_string(dir.join("redis.log")).unwrap_or_default();
    match answered {
        Some(Ok(())) => Ok(child),
        Some(Err(_)) if log().contains("Address already in use") => Err(StartError::PortTaken),
        Some(Err(status)) => Err(StartError::Exited { status, log: log() }),
        None => {
            kill(&mut child);
            Err(StartError::Silent { log: log() })
        }
    }
}

/// The shell sets the limit and then becomes the server: the process is the same.
fn command(program: &str, open_files: Option<u32>) -> Command {
    let Some(limit) = open_files else { return Command::new(program) };
    let mut shell = Command::new("sh");
    let script = "ulimit -n \"$1\" && shift && exec \"$0\" \"$@\"";
    shell.args(["-c", script, program, &limit.to_string()]);
    shell
}

/// Secrets go into a file of the temporary folder, not into a command line that every user of the
/// machine can read.
pub(super) fn write_config(
    settings: &TestServerBuilder,
    dir: &Path,
    ports: Ports,
    extra: &[(&str, &str)],
) -> Result<(), StartError> {
    let folder = quoted(&dir.to_string_lossy());
    let mut config = format!(
        "bind 127.0.0.1\nport {}\ndir {folder}\nunixsocket {}\n\
         save \"\"\ndaemonize no\nloglevel warning\n",
        ports.plain,
        quoted(&dir.join("redis.sock").to_string_lossy()),
    );
    let mut line = |name: &str, value: &str| {
        let value = if value.is_empty() { "\"\"" } else { value };
        writeln!(config, "{name} {value}").expect("writing to a string cannot fail");
    };
    if let Some(maxclients) = settings.maxclients {
        line("maxclients", &maxclients.to_string());
    }
    if let Some(password) = &settings.password {
        line("requirepass", &quoted(password));
    }
    for (name, password) in &settings.users {
        line("user", &format!("{name} on {} ~* &* +@all", quoted(&format!(">{password}"))));
    }
    if settings.tls {
        line("tls-port", &ports.tls.to_string());
        line("tls-cert-file", "server.pem");
        line("tls-key-file", "server.key");
        line("tls-ca-cert-file", "ca.pem");
        line("tls-auth-clients", "no");
    }
    if settings.cluster {
        line("cluster-enabled", "yes");
        if ports.bus != ports.plain + 10_000 {
            // One that is free: the usual one, 10,000 above the port, may be anybody's.
            line("cluster-port", &ports.bus.to_string());
        }
    }
    for (name, value) in &settings.args {
        line(name, value);
    }
    for (name, value) in extra {
        line(name, value);
    }
    fs::write(dir.join("redis.conf"), config)?;
    Ok(())
}

/// The files of [`write_certificates`].
const CERTIFICATES: [&str; 3] = ["ca.pem", "server.pem", "server.key"];

/// Takes over another server's key and certificate: they are made for the address, not for the port.
pub(super) fn copy_certificates(from: &Path, dir: &Path) -> Result<(), StartError> {
    for file in CERTIFICATES {
        fs::copy(from.join(file), dir.join(file))?;
    }
    Ok(())
}

/// Writes the server's key and certificate; returns the authority's.
pub(super) fn write_certificates(dir: &Path) -> Result<String, StartError> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "redis-guard test authority");
    let authority_key = KeyPair::generate()?;
    let ca_pem = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);

    let server = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    let server_key = KeyPair::generate()?;
    fs::write(dir.join("ca.pem"), &ca_pem)?;
    fs::write(dir.join("server.pem"), server.signed_by(&server_key, &issuer)?.pem())?;
    fs::write(dir.join("server.key"), server_key.serialize_pem())?;
    Ok(ca_pem)
}

/// The bus of a cluster's node has a port of its own where the server can be told so; otherwise it is 10,000
/// above the other.
pub(super) fn free_ports() -> io::Result<Ports> {
    let (plain, tls) = (free_port()?, free_port()?);
    let bus = match Program::get().is_ok_and(|program| program.redis_version() >= (7, 0)) {
        true => free_port()?,
        false => plain + 10_000,
    };
    Ok(Ports { plain, tls, bus })
}

/// A port nobody listens on at the moment. Test processes start from different places, and none takes a port
/// twice: its server may be away only for a while, and pools know a server by its address.
fn free_port() -> io::Result<u16> {
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let nanos = since.map_or(0, |since| since.subsec_nanos());
        AtomicU32::new((nanos / 1_000).wrapping_add(process::id().wrapping_mul(7_919)))
    });
    for _ in 0..PORTS.len() {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) % u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(offset).expect("an offset into a range of u16");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

/// The shell's own `kill`: `unsafe` is forbidden here, and procps may be missing.
pub(super) fn signal(child: &Child, signal: &str) {
    let _ = Command::new("sh").arg("-c").arg(format!("kill -{signal} {}", child.id())).status();
}

pub(super) fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// A word for `redis.conf`.
pub(crate) fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Why there is no server.
#[derive(Debug)]
pub(crate) enum StartError {
    NotInstalled { program: String },
    PortTaken,
    Exited { status: ExitStatus, log: String },
    Silent { log: String },
    Certificates(rcgen::Error),
    Io(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInstalled { program } => write!(
                f,
                "{program} is not installed (on Debian and Ubuntu: apt-get install redis-server; \
                 or set REDIS_SERVER to its path)"
            ),
            Self::PortTaken => f.write_str("another process holds the port of redis-server"),
            Self::Exited { status, log } => {
                write!(f, "redis-server ended at once ({status}), its log:\n{log}")
            }
            Self::Silent { log } => {
                write!(
                    f,
                    "redis-server did not answer within {} s, its log:\n{log}",
                    START_LIMIT.as_secs()
                )
            }
            Self::Certificates(_) => f.write_str("no certificate for redis-server could be made"),
            Self::Io(_) => f.write_str("redis-server could not be started"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Certificates(error) => Some(error),
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rcgen::Error> for StartError {
    fn from(error: rcgen::Error) -> Self {
        Self::Certificates(error)
    }
}
