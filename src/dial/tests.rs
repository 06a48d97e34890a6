//! Dials in memory, at a server that says what a test has it say.

use std::sync::Mutex;

use redis::{ConnectionAddr, ProtocolVersion};

use super::memory::{Connecting, HangUp, Network, Peer, pipe, set_network, take_command};
use super::*;

const TIMEOUT: Duration = Duration::from_secs(3);

/// A server: what it was sent, and how it replies; nothing where that is empty, and it hangs up at `QUIT`.
struct Server {
    heard: Mutex<Vec<String>>,
    reply: Reply,
}

type Reply = fn(&str) -> &'static str;

impl Server {
    async fn serve(self: Arc<Self>, peer: Peer) {
        let mut input = Vec::new();
        while let Some(bytes) = peer.read(|| false).await {
            input.extend(bytes);
            while let Some(words) = take_command(&mut input) {
                let line = String::from_utf8(words.join(&b' ')).unwrap();
                match (self.reply)(&line) {
                    "QUIT" => peer.hang_up(HangUp::End),
                    reply => peer.write(reply.as_bytes()),
                }
                self.heard.lock().unwrap().push(line);
                // One reply at a time.
                tokio::task::yield_now().await;
            }
        }
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

struct Served(Arc<Server>);

impl Network for Served {
    fn connect(&self, _: SocketAddr) -> Connecting {
        let server = Arc::clone(&self.0);
        Box::pin(async move {
            let (pipe, peer) = pipe(|| {});
            tokio::spawn(server.serve(peer));
            Ok(pipe)
        })
    }
}

fn server(reply: Reply) -> Arc<Server> {
    let server = Arc::new(Server { heard: Mutex::default(), reply });
    set_network(Some(Arc::new(Served(Arc::clone(&server)))));
    server
}

/// As one that has nothing to object to.
fn fine(line: &str) -> &'static str {
    match line.split(' ').next() {
        Some("PING") => "+PONG\r\n",
        Some("ROLE") => "*3\r\n$5\r\nslave\r\n$8\r\n10.0.0.9\r\n:6379\r\n",
        _ => "+OK\r\n",
    }
}

fn redis() -> RedisConnectionInfo {
    RedisConnectionInfo::default()
        .set_db(2)
        .set_username("app")
        .set_password("secret")
        .set_protocol(ProtocolVersion::RESP2)
}

fn dialer() -> Dialer {
    Dialer::new(redis(), "shop".to_owned(), TIMEOUT)
}

fn target() -> Target {
    Target::new(Address::new(&ConnectionAddr::Tcp("10.0.0.7".to_owned(), 6379), None).unwrap())
}

async fn dial(dialer: &Dialer) -> Result<Dialed, DialFailure> {
    dialer.dial(&target(), &dialer.login()).await
}

async fn failed(dialer: &Dialer) -> (Outcome, String) {
    match dial(dialer).await {
        Ok(_) => panic!("it has connected"),
        Err(DialFailure { outcome, message, .. }) => (outcome, message),
    }
}

/// Those of `lines` that are said in this order, others between them left out.
fn in_order(heard: &[String], lines: &[&str]) -> bool {
    let mut heard = heard.iter();
    lines.iter().all(|line| heard.any(|heard| heard == line))
}

#[tokio::test(start_paused = true)]
async fn a_dial_logs_in_names_itself_and_is_answered() {
    let server = server(fine);
    let mut dialer = dialer();
    dialer.reads_replicas = true;
    let (target, mut trace) = (target(), Trace::default());
    let dialed = dialer.dial_traced(&target, &dialer.login(), &mut trace).await;
    assert!(dialed.is_ok());
    let said = ["AUTH app secret", "SELECT 2", "CLIENT SETNAME shop", "READONLY", "PING"];
    assert!(in_order(&server.heard(), &said), "{:?}", server.heard());
    assert_eq!(trace.addresses, ["10.0.0.7:6379".parse().unwrap()]);
    let steps = [trace.resolved, trace.connected, trace.answered];
    assert!(steps.iter().all(Option::is_some) && trace.silent.is_empty(), "{trace:?}");
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_knows_no_client_hears_none() {
    let server = server(fine);
    let mut dialer = dialer();
    dialer.plain = true;
    assert!(dial(&dialer).await.is_ok());
    assert!(!server.heard().iter().any(|line| line.contains("SETNAME") || line == "READONLY"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_loads_its_data_set_will_do_only_for_who_said_so() {
    server(|line| if line == "PING" { "-LOADING wait\r\n" } else { "+OK\r\n" });
    let mut dialer = dialer();
    assert_eq!(failed(&dialer).await, (Outcome::Loading, "LOADING wait".to_owned()));
    dialer.admits_loading = true;
    assert!(dial(&dialer).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_error_that_is_only_about_the_ping_is_an_answer() {
    server(
        |line| if line == "PING" { "-NOPERM no permissions to run 'ping'\r\n" } else { "+OK\r\n" },
    );
    assert!(dial(&dialer()).await.is_ok());
    server(|line| if line == "PING" { "-NOAUTH log in first\r\n" } else { "+OK\r\n" });
    assert_eq!(failed(&dialer()).await.0, Outcome::Auth);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_in_whichever_reply_is_the_servers_and_shows_no_password() {
    server(|line| match line {
        "CLIENT SETNAME shop" => "-ERR max number of clients reached, secret\r\n",
        _ => "+OK\r\n",
    });
    let said = "ERR max number of clients reached, ***".to_owned();
    assert_eq!(failed(&dialer()).await, (Outcome::MaxClients, said));
}

#[tokio::test(start_paused = true)]
async fn who_hangs_up_or_says_nothing_is_told_apart() {
    server(|line| if line == "PING" { "QUIT" } else { "+OK\r\n" });
    let (outcome, words) = failed(&dialer()).await;
    assert!(outcome == Outcome::Other && words.starts_with(classify::HUNG_UP), "{words}");
    server(|_| "QUIT");
    assert_eq!(failed(&dialer()).await.0, Outcome::SuspectedMaxClients);
    server(|_| "");
    let started = Instant::now();
    let (outcome, words) = failed(&dialer()).await;
    assert_eq!((outcome, started.elapsed().as_secs()), (Outcome::Timeout, TIMEOUT.as_secs()));
    assert!(words.contains("the first commands have had no answer"), "{words}");
}

#[tokio::test(start_paused = true)]
async fn a_server_says_its_role_where_one_may_ask() {
    let dialer = dialer();
    let replies: [(Reply, _); 5] = [
        (fine, Some(true)),
        (|line| if line == "ROLE" { "*1\r\n$6\r\nmaster\r\n" } else { "+OK\r\n" }, Some(false)),
        (|line| if line == "ROLE" { "*1\r\n$8\r\nsentinel\r\n" } else { "+OK\r\n" }, None),
        (|line| if line == "ROLE" { "*0\r\n" } else { "+OK\r\n" }, None),
        (|line| if line == "ROLE" { "-NOPERM no\r\n" } else { "+OK\r\n" }, None),
    ];
    for (reply, role) in replies {
        server(reply);
        let mut dialed = dial(&dialer).await.unwrap_or_else(|failure| panic!("{failure}"));
        let told = dialer.is_replica(&mut dialed, &target(), Instant::now()).await;
        assert_eq!(told, Ok(role));
    }
    server(|line| if line == "ROLE" { "" } else { "+OK\r\n" });
    let mut dialed = dial(&dialer).await.unwrap_or_else(|failure| panic!("{failure}"));
    let started = Instant::now();
    let told = dialer.is_replica(&mut dialed, &target(), started).await;
    assert_eq!(told.map_err(|failure| failure.outcome), Err(Outcome::Timeout));
    assert_eq!(started.elapsed().as_secs(), TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_logs_in_by_itself_and_asks_for_the_role_if_it_is_to() {
    let dialer = dialer();
    for asks in [true, false] {
        let server = server(fine);
        let dialed = dialer.dial_pubsub(&target(), &dialer.login(), asks, |tap| tap).await;
        assert_eq!(dialed.map(|(_, is_replica)| is_replica).unwrap(), asks.then_some(true));
        let said = [
            "AUTH app secret",
            "CLIENT SETNAME shop",
            "PING",
            "CLIENT SETINFO LIB-NAME redis-rs",
            "SELECT 2",
        ];
        assert!(in_order(&server.heard(), &said), "{:?}", server.heard());
        assert_eq!(server.heard().iter().any(|line| line == "ROLE"), asks);
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_does_without_its_librarys_name_and_not_without_its_database() {
    let dialer = dialer();
    let subscriber = async |reply| {
        server(reply);
        let dialed = dialer.dial_pubsub(&target(), &dialer.login(), false, |tap| tap).await;
        dialed.map(|_| ()).map_err(|failure| failure.outcome)
    };
    let old = |line: &str| match line.contains("SETINFO") {
        true => "-ERR unknown subcommand\r\n",
        false => "+OK\r\n",
    };
    assert_eq!(subscriber(old).await, Ok(()));
    let small = |line: &str| match line.contains("SELECT") {
        true => "-ERR DB index is out of range\r\n",
        false => "+OK\r\n",
    };
    assert_eq!(subscriber(small).await, Err(Outcome::Misconfigured));
    let wrong = |line: &str| match line.contains("AUTH") {
        true => "-WRONGPASS no\r\n",
        false => "+OK\r\n",
    };
    assert_eq!(subscriber(wrong).await, Err(Outcome::Auth));
    assert_eq!(subscriber(|_| "QUIT").await, Err(Outcome::SuspectedMaxClients));
}

#[tokio::test(start_paused = true)]
async fn a_link_is_opened_within_its_own_time() {
    let server = server(fine);
    let dialer = dialer();
    let time = Duration::from_millis(200);
    assert!(dialer.open_within(&target(), &dialer.login(), time).await.is_ok());
    assert!(in_order(&server.heard(), &["AUTH app secret", "CLIENT SETNAME shop", "PING"]));
    self::server(|line| if line == "PING" { "-LOADING wait\r\n" } else { "+OK\r\n" });
    let failed = dialer.open_within(&target(), &dialer.login(), time).await.map(|_| ());
    assert_eq!(failed.map_err(|failure| failure.outcome), Err(Outcome::Loading), "the last line");
    self::server(|_| "");
    let started = Instant::now();
    let failed = dialer.open_within(&target(), &dialer.login(), time).await.map(|_| ());
    assert_eq!(failed.map_err(|failure| failure.outcome), Err(Outcome::Timeout));
    assert_eq!(started.elapsed().as_millis(), 200);
}

#[test]
fn other_credentials_are_logged_in_with_from_then_on_and_the_same_change_nothing() {
    let dialer = dialer();
    let before = dialer.login();
    assert!(!dialer.set_credentials(Some("app"), "secret") && dialer.is_current(&before));
    let another = dialer.another();
    assert!(another.is_current(&before) && another.client_name == "shop");
    assert!(dialer.set_credentials(Some("app"), "other") && !dialer.is_current(&before));
    assert!(dialer.login().has(Some("app"), "other"));
    assert_eq!((dialer.db(), dialer.awaits_credentials()), (2, false));
}

#[cfg(feature = "credentials")]
#[test]
fn nothing_is_dialed_before_the_first_credentials_whatever_they_are() {
    /// One that has nothing to say yet.
    struct Silent;

    impl redis::StreamingCredentialsProvider for Silent {
        fn subscribe(
            &self,
        ) -> Pin<Box<dyn futures_core::Stream<Item = redis::RedisResult<redis::BasicAuth>> + Send>>
        {
            Box::pin(futures_util::stream::pending())
        }
    }

    let dialer = dialer().provided(Some(Provider(Arc::new(Silent))));
    assert!(dialer.awaits_credentials() && dialer.another().awaits_credentials());
    assert!(dialer.set_credentials(Some("app"), "secret"), "they may be those it had");
    assert!(!dialer.awaits_credentials() && !dialer.set_credentials(Some("app"), "secret"));
}

#[test]
fn a_session_is_brought_back_to_where_the_dial_left_it() {
    let commands = |redis: &RedisConnectionInfo| {
        let mut pipe = redis::pipe();
        reset_commands(&mut pipe, redis);
        let mut packed = pipe.get_packed_pipeline();
        let words = std::iter::from_fn(|| take_command(&mut packed));
        words.map(|words| String::from_utf8(words.join(&b' ')).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(commands(&redis()), ["RESET", "AUTH app secret", "SELECT 2"]);
    let resp3 = redis().set_protocol(ProtocolVersion::RESP3);
    assert_eq!(commands(&resp3), ["RESET", "HELLO 3 AUTH app secret", "SELECT 2"]);
    let plain = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
    assert_eq!(commands(&plain), ["RESET", "HELLO 3"]);
    let plain = plain.set_protocol(ProtocolVersion::RESP2);
    assert_eq!(commands(&plain), ["RESET"]);
}
