//! What other servers, proxies and impostors say to a dial, and the outcome it is given: in
//! bounded time and memory, without a panic, and without a word of the password.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

mod support;

use std::fmt::Debug;
use std::time::Duration;

use futures_util::FutureExt;
use redis_guard::{GuardedPool, Outcome};
#[cfg(feature = "tls-rustls")]
use support::tls_proxy::TlsProxy;
use support::vendor::{CLUSTER_TEXT, OSS_TEXT, UPSTASH_TEXT};
use support::{VendorScript, VendorServer, ask_until_dialed, ask_until_served, dials, impatient};
use tokio::time::{Instant, timeout};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(150);
/// For whoever says something, so that a busy machine's time is not taken for silence.
const LONG: Duration = Duration::from_secs(60);
/// What a busy machine may add to a timeout: less than [`LONG`].
const SLACK: Duration = Duration::from_secs(20);
const PASSWORD: &str = "correct-horse-battery-staple";
const CREDENTIALS: [&str; 3] =
    ["", ":correct-horse-battery-staple", "alice:correct-horse-battery-staple"];
const PROTOCOLS: [&str; 2] = ["protocol=resp2", "protocol=resp3"];
/// Above what the kernel's socket buffers take, far under what an unbounded reader does.
const MOST_BYTES: u64 = 32 << 20;
const MOST_MEMORY: u64 = 512 << 20;

/// Whatever the protocol and the credentials: this outcome, these words for the caller.
async fn expect(script: VendorScript, outcome: Outcome, words: &str) {
    for protocol in PROTOCOLS {
        for credentials in CREDENTIALS {
            expect_with(script, outcome, words, credentials, protocol).await;
        }
    }
}

async fn expect_with(
    script: VendorScript,
    outcome: Outcome,
    words: &str,
    credentials: &str,
    protocol: &str,
) {
    let case = format!("{script:?} {credentials:?} {protocol}");
    let server = VendorServer::start(script).await.unwrap();
    let limit = if outcome == Outcome::Timeout { CONNECT_TIMEOUT } else { LONG };
    let pool = impatient(&server.url_with(credentials, protocol))
        .connect_timeout(limit)
        .acquire_timeout(2 * limit)
        .build()
        .unwrap();
    let mut events = pool.events();

    let begun = Instant::now();
    let mut told = ask_until_dialed(&pool, 1).await;
    let took = begun.elapsed();
    // The first failure opens the breaker, or is reported when the acquire timeout is over.
    told.extend(pool.acquire("test").await.err());

    assert_eq!(dials(&pool).keys().collect::<Vec<_>>(), [&outcome.as_str()], "{case}: {told:?}");
    assert!(took < CONNECT_TIMEOUT + SLACK, "{case}: took {took:?}");
    assert!(told.iter().any(|error| error.to_string().contains(words)), "{case}: {told:?}");
    assert!(server.bytes_sent() < server.accepted() * MOST_BYTES, "{case}: unbounded");
    assert!(peak_memory() < MOST_MEMORY, "{case}: {} bytes of memory", peak_memory());
    for error in &told {
        keeps_the_secret(&case, error);
        keeps_the_secret(&case, &error.to_string());
        keeps_the_secret(&case, &redis::RedisError::from(error.clone()));
    }
    keeps_the_secret(&case, &serde_json::to_string(&pool.status()).unwrap());
    keeps_the_secret(&case, &pool);
    while let Some(Some(event)) = events.next().now_or_never() {
        keeps_the_secret(&case, &event);
    }
}

fn keeps_the_secret(case: &str, text: &dyn Debug) {
    let text = format!("{text:?}");
    assert!(!text.contains(PASSWORD), "{case}: the password is in {text}");
}

/// The most memory this process has had, where the system tells.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1_024
}

/// `test name: script => outcome, words`, one test a line.
macro_rules! vendors {
    ($($name:ident: $script:ident => $outcome:ident, $words:expr;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                expect(VendorScript::$script, Outcome::$outcome, $words).await;
            }
        )*
    };
}

vendors! {
    redis_is_full: OssMaxClients => MaxClients, OSS_TEXT;
    redis_cluster_is_full: ClusterMaxClients => MaxClients, CLUSTER_TEXT;
    upstash_is_full: Upstash => MaxClients, UPSTASH_TEXT;
    redis_enterprise_passes_the_shards_refusal_on: ReplyOnHealthy => MaxClients, OSS_TEXT;
    garnet_pika_and_twemproxy_close_silently: SilentClose => SuspectedMaxClients, "full";
    a_reset_without_a_word: SilentReset => SuspectedMaxClients, "full";
    redis_is_protected: Denied => Denied, "protected mode";
    keydb_shuts_down_without_an_end_of_line: KeyDbShutdownNoCrlf => Other, "SHUTDOWN";
    envoy_has_no_upstream: EnvoyNoUpstream => Unreachable, "no upstream host";
    bytes_of_no_protocol: Garbage => Other, "";
    half_a_line_and_silence: HalfLine => Timeout, "";
    half_a_line_and_the_end: HalfLineClose => Other, "max number of cli";
    a_line_without_end: HugeLine => Other, "";
    an_array_of_2_to_the_63: HugeArrayHeader => Timeout, "";
    a_string_of_2_to_the_63: HugeBulkHeader => Timeout, "";
    a_map_of_2_to_the_63: HugeMapHeader => Timeout, "";
    arrays_nested_without_end: DeepNesting => Other, "";
    sizes_below_zero: NegativeSizes => Timeout, "";
    one_byte_at_a_time: Drip => Timeout, "";
    silence: Nothing => Timeout, "";
    a_web_server: HttpServer => Misconfigured, "speaks HTTP";
}

/// Redis 5 repeats the arguments of a command it does not know: with `AUTH` and `HELLO`, the
/// password.
#[tokio::test]
async fn a_server_that_echoes_the_password_is_quoted_without_it() {
    for credentials in &CREDENTIALS[1..] {
        let script = VendorScript::UnknownCommandEcho;
        let (resp2, resp3) = (PROTOCOLS[0], PROTOCOLS[1]);
        expect_with(script, Outcome::Misconfigured, "unknown command `HELLO`", credentials, resp3)
            .await;
        expect_with(script, Outcome::Other, "unknown command `AUTH`", credentials, resp2).await;
    }
}

/// The echo ends after 128 characters: of a token, only the beginning is to be seen.
#[tokio::test]
async fn a_server_that_echoes_half_of_a_token_is_quoted_without_it() {
    let token: String = (0..50).map(|number| format!("{number:04}")).collect();
    for protocol in PROTOCOLS {
        let server = VendorServer::start(VendorScript::UnknownCommandEcho).await.unwrap();
        let pool = impatient(&server.url_with(&format!(":{token}"), protocol)).build().unwrap();
        let mut told = ask_until_dialed(&pool, 1).await;
        told.extend(pool.acquire("test").await.err());
        let status = serde_json::to_string(&pool.status()).unwrap();
        for text in told.iter().map(|error| format!("{error} {error:?}")).chain([status]) {
            assert!(!text.contains(&token[..40]), "{protocol}: {text}");
        }
    }
}

/// Redis Enterprise again: the dial is fine, the shard behind the proxy is full.
#[tokio::test]
async fn a_shards_refusal_after_the_dial_is_the_callers_error() {
    for protocol in PROTOCOLS {
        let server = VendorServer::start(VendorScript::ReplyAfterSetup).await.unwrap();
        let pool = impatient(&server.url_with("", protocol)).build().unwrap();
        let mut connection = ask_until_served(&pool).await;

        let get = redis::cmd("GET").arg("key").query_async::<String>(&mut connection).await;

        assert!(get.unwrap_err().to_string().contains(OSS_TEXT), "{protocol}");
        assert_eq!(dials(&pool), [("connected", 1)].into(), "{protocol}");
    }
}

/// A managed service that ends TLS before its Redis: unlike Redis's own TLS port, it can be heard.
#[cfg(feature = "tls-rustls")]
#[tokio::test]
async fn a_refusal_inside_tls_is_heard() {
    for (script, outcome) in [
        (VendorScript::OssMaxClients, "max_clients"),
        (VendorScript::Denied, "denied"),
        (VendorScript::SilentClose, "suspected_max_clients"),
    ] {
        let server = VendorServer::start(script).await.unwrap();
        let proxy = TlsProxy::start(server.address()).await.unwrap();
        let certificates = redis::TlsCertificates {
            client_tls: None,
            root_cert: Some(proxy.certificate_pem().into()),
        };
        let pool = impatient(&proxy.url()).tls_certificates(certificates).build().unwrap();

        let told = ask_until_dialed(&pool, 1).await;

        assert_eq!(dials(&pool).keys().collect::<Vec<_>>(), [&outcome], "{script:?}: {told:?}");
    }
}

/// A dial that gives no answer takes its connection with it.
#[tokio::test]
async fn a_timed_out_dial_leaves_no_socket_behind() {
    let server = VendorServer::start(VendorScript::Nothing).await.unwrap();
    let pool: GuardedPool = impatient(&server.url())
        .connect_timeout(Duration::from_millis(20))
        .max_connections(4)
        .build()
        .unwrap();
    ask_until_dialed(&pool, 20).await;
    assert!(server.most_open() <= 2, "{} connections at a time", server.most_open());
    timeout(SLACK, pool.close()).await.unwrap();
    timeout(SLACK, server.all_closed()).await.unwrap();
}
