//! A link that really goes down: the server is in a network namespace of its own, and the cable between
//! is pulled.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis_guard::{Error, GuardedPool, redis};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{impatient, program, skip};
use crate::waiting::{HANG, cmd, soon, until};

const LINK_TIMEOUT: Duration = Duration::from_secs(3);
/// The kernel counts in seconds and doubles its pauses; a busy machine is late besides.
const BOUND: Duration = Duration::from_secs(20);

/// A server behind a cable. Whatever was made of it goes with it.
struct Remote {
    name: String,
    address: String,
    server: Option<Child>,
}

fn ip(words: &str) -> bool {
    let mut command = Command::new("ip");
    let status = command.args(words.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
    status.status().is_ok_and(|status| status.success())
}

impl Remote {
    /// `None` where this machine does not let us.
    async fn start() -> Option<Self> {
        let number = std::process::id() % 16_384;
        let name = format!("guard{number}");
        // Of the range for tests of networks.
        let net = format!("198.18.{}.{}", number / 64, number % 64 * 4);
        let (ours, theirs) = (following(&net, 1), following(&net, 2));
        let mut remote = Self { name: name.clone(), address: theirs.clone(), server: None };
        let made = ip(&format!("netns add {name}"))
            && ip(&format!("link add {name}a type veth peer name {name}b netns {name}"))
            && ip(&format!("addr add {ours}/30 dev {name}a"))
            && ip(&format!("link set {name}a up"))
            && ip(&format!("-n {name} addr add {theirs}/30 dev {name}b"))
            && ip(&format!("-n {name} link set {name}b up"));
        if !made {
            return None;
        }
        let mut server = Command::new("ip");
        server.args(["netns", "exec", &name, &program().path, "--bind", &theirs]);
        server.args(["--port", "6379", "--save", "", "--protected-mode", "no"]);
        remote.server = server.stdout(Stdio::null()).spawn().ok();
        let up = async {
            while tokio::net::TcpStream::connect((theirs.as_str(), 6379)).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(BOUND, up).await.ok().map(|()| remote)
    }

    fn url(&self) -> String {
        format!("redis://{}:6379", self.address)
    }

    fn pull_the_cable(&self) {
        let name = &self.name;
        assert!(ip(&format!("-n {name} link set {name}b down")));
    }
}

fn following(net: &str, by: u32) -> String {
    let net: std::net::Ipv4Addr = net.parse().expect("four numbers below 256");
    std::net::Ipv4Addr::from(u32::from(net) + by).to_string()
}

impl Drop for Remote {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            // `ip netns exec` has become the server.
            let _ = server.kill();
            let _ = server.wait();
        }
        ip(&format!("link del {}a", self.name));
        ip(&format!("netns del {}", self.name));
    }
}

/// How long it takes until a command for which nobody sets a limit has failed.
async fn ends(pool: GuardedPool, shared: bool, after: Duration) -> Duration {
    sleep(after).await;
    let begun = Instant::now();
    let blpop = cmd("BLPOP list 0");
    let error = match shared {
        true => pool.shared("shared").send(&blpop).await.unwrap_err(),
        false => {
            let mut lease = pool.acquire("test").await.unwrap();
            Error::Inner(blpop.query_async::<redis::Value>(&mut lease).await.unwrap_err())
        }
    };
    assert!(!error.is_rejected(), "{error}");
    begun.elapsed()
}

#[tokio::test]
async fn a_link_that_goes_down_is_known_within_the_link_timeout() {
    let Some(remote) = Remote::start().await else {
        skip("no network namespaces here");
        return;
    };
    let pool = impatient(&remote.url()).max_connections(8).watch(false).acquire_timeout(HANG);
    let pool = pool.response_timeout(Duration::from_millis(500)).link_timeout(LINK_TIMEOUT);
    let pool = pool.build().unwrap();
    pool.warm_up(8).await.unwrap();
    let cut = Duration::from_millis(500);
    let waiting = [(false, Duration::ZERO), (true, Duration::ZERO)];
    let sent_later = [(false, cut * 2), (true, cut * 2)];
    let calls = waiting
        .into_iter()
        .chain(sent_later)
        .map(|(shared, after)| tokio::spawn(ends(pool.clone(), shared, after)));
    let calls: Vec<_> = calls.collect();
    sleep(cut).await;

    remote.pull_the_cable();

    let begun = Instant::now();
    for call in calls {
        let took = soon("the end of a command", call).await.unwrap();
        println!("BLPOP 0 over a dead link failed after {took:?}");
        assert!(took < BOUND, "{took:?}");
    }
    // What nobody uses, too.
    until("all known to be dead", &pool, || pool.status().live == 0).await;
    println!("all connections were known to be dead after {:?}", begun.elapsed());
    assert!(begun.elapsed() < BOUND, "{:?}", begun.elapsed());
}
