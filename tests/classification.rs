//! What a real Redis does to a dial, and the outcome it is given.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

mod support;

use std::net::UdpSocket;
use std::time::Duration;

use redis_guard::{GuardedPool, GuardedPoolBuilder, Outcome, Rejection};
use support::{
    Auth, LOADS_SLOWLY, Resp, SEVEN, TestServer, Transport, ask_until_dialed, ask_until_served,
    dials, impatient, lacks, lacks_tls, program, skip, unhurried, until_alone,
};
use tokio::time::{Instant, sleep, timeout};

const PASSWORD: Auth<'_> = Auth::Password("open sesame");
const USER: Auth<'_> = Auth::User("alice", "down/the:rabbit@hole");
const WRONG: Auth<'_> = Auth::Password("guess");
const EVERY_AUTH: [Auth<'_>; 3] = [Auth::None, PASSWORD, USER];
const EVERY_RESP: [Resp; 2] = [Resp::Resp2, Resp::Resp3];
const DIALS: u64 = 100;
/// "At once" is less than the timeouts that must not be waited for.
const AT_ONCE: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(60);

/// Both sides can speak it.
fn has_tls() -> bool {
    cfg!(any(feature = "tls-rustls", feature = "tls-native-tls")) && program().has_tls()
}

/// A server that wants these credentials.
fn server_wanting(auth: Auth<'_>) -> TestServer {
    let builder = TestServer::builder().maxclients(8).tls(has_tls());
    let builder = match auth {
        Auth::None => builder,
        Auth::Password(password) => builder.password(password),
        Auth::User(user, password) => builder.password("another").acl_user(user, password),
    };
    builder.start().unwrap_or_else(|error| panic!("{error}"))
}

/// A builder for a pool that trusts the server's certificate, where TLS is compiled in.
#[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
fn builder(server: &TestServer, url: &str) -> GuardedPoolBuilder {
    if !server.has_tls() {
        return impatient(url);
    }
    impatient(url).tls_certificates(redis::TlsCertificates {
        client_tls: None,
        root_cert: Some(server.ca_pem().into()),
    })
}

#[cfg(not(any(feature = "tls-rustls", feature = "tls-native-tls")))]
fn builder(_: &TestServer, url: &str) -> GuardedPoolBuilder {
    impatient(url)
}

fn pool(server: &TestServer, transport: Transport, resp: Resp, auth: Auth<'_>) -> GuardedPool {
    let url = server.url_with(transport, resp, auth, 0);
    builder(server, &url).build().unwrap()
}

fn transports() -> Vec<Transport> {
    let tls = has_tls().then_some(Transport::Tls);
    [Transport::Tcp, Transport::Unix].into_iter().chain(tls).collect()
}

/// Every protocol, kind of credentials and database: 100 dials to a full server, all with this
/// outcome, and a connection once there is room.
async fn every_refused_dial_is(outcome: Outcome, transport: Transport) {
    for auth in EVERY_AUTH {
        let server = server_wanting(auth);
        for (resp, db) in EVERY_RESP.into_iter().flat_map(|resp| [(resp, 0), (resp, 1)]) {
            let case = format!("{transport:?} {resp:?} {auth:?} db {db}");
            let occupants = server.fill();
            let refused_before = server.admin().info_u64("rejected_connections");
            let url = server.url_with(transport, resp, auth, db);
            let pool = builder(&server, &url).build().unwrap();

            ask_until_dialed(&pool, DIALS).await;

            let ended = dials(&pool);
            assert_eq!(ended.keys().collect::<Vec<_>>(), [&outcome.as_str()], "{case}");
            let refused = server.admin().info_u64("rejected_connections") - refused_before;
            assert!(refused >= ended[outcome.as_str()], "{case}: the server refused {refused}");

            occupants.free();
            let mut connection = ask_until_served(&pool).await;
            let info: String =
                redis::cmd("CLIENT").arg("INFO").query_async(&mut connection).await.unwrap();
            assert!(info.contains(&format!(" db={db} ")), "{case}: {info}");
            drop(connection);
            pool.close().await;
            until_alone(&server).await;
        }
    }
}

#[tokio::test]
async fn a_full_server_is_max_clients_over_tcp() {
    every_refused_dial_is(Outcome::MaxClients, Transport::Tcp).await;
}

#[tokio::test]
async fn a_full_server_is_max_clients_over_a_unix_socket() {
    every_refused_dial_is(Outcome::MaxClients, Transport::Unix).await;
}

/// It closes before the TLS handshake, and says nothing.
#[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
#[tokio::test]
async fn a_full_server_is_suspected_over_tls() {
    if lacks_tls() {
        return;
    }
    every_refused_dial_is(Outcome::SuspectedMaxClients, Transport::Tls).await;
}

#[tokio::test]
async fn a_refusal_carries_the_servers_words_and_the_time_to_wait() {
    let server = server_wanting(Auth::None);
    let _occupants = server.fill();
    let pool = unhurried(server.url()).build().unwrap();

    let error = pool.acquire("test").await.unwrap_err();

    assert!(error.to_string().contains("max number of clients reached"), "{error}");
    assert!(error.retry_after().is_some_and(|wait| wait > Duration::ZERO), "{error}");
    assert_eq!(error.reason(), "breaker_open");
}

#[tokio::test]
async fn a_wrong_password_is_auth_and_fails_at_once_in_the_servers_words() {
    let server = server_wanting(PASSWORD);
    for transport in transports() {
        for resp in EVERY_RESP {
            for auth in [WRONG, Auth::User("alice", "guess")] {
                let url = server.url_with(transport, resp, auth, 0);
                let builder = builder(&server, &url);
                let pool = builder.acquire_timeout(LONG).connect_timeout(LONG).build().unwrap();

                let error = timeout(AT_ONCE, pool.acquire("test")).await.unwrap().unwrap_err();

                let case = format!("{transport:?} {resp:?} {auth:?}: {error}");
                assert_eq!(error.reason(), "connect_failed", "{case}");
                assert!(
                    error.to_string().contains("WRONGPASS invalid username-password"),
                    "{case}"
                );
                assert_eq!(dials(&pool), [("auth", 1)].into(), "{case}");
            }
        }
    }
}

#[tokio::test]
async fn after_a_wrong_password_the_next_caller_hears_it_without_a_dial() {
    let server = server_wanting(PASSWORD);
    let pool = pool(&server, Transport::Tcp, Resp::Resp3, WRONG);
    pool.acquire("test").await.unwrap_err();

    let error = pool.acquire("test").await.unwrap_err();

    assert!(error.to_string().contains("WRONGPASS"), "{error}");
    assert_eq!(dials(&pool), [("auth", 1)].into());
}

#[tokio::test]
async fn a_missing_password_is_auth() {
    let server = server_wanting(PASSWORD);
    for transport in transports() {
        for resp in EVERY_RESP {
            let pool = pool(&server, transport, resp, Auth::None);

            let error = pool.acquire("test").await.unwrap_err();

            let case = format!("{transport:?} {resp:?}: {error}");
            assert_eq!(dials(&pool), [("auth", 1)].into(), "{case}");
            assert!(error.to_string().contains("NOAUTH"), "{case}");
        }
    }
}

#[tokio::test]
async fn a_stopped_server_is_refused() {
    let server = server_wanting(Auth::None);
    server.stop();
    for transport in transports() {
        let pool = pool(&server, transport, Resp::Resp2, Auth::None);
        ask_until_dialed(&pool, 5).await;
        assert_eq!(dials(&pool).keys().collect::<Vec<_>>(), [&"refused"], "{transport:?}");
    }
}

/// It leaves its socket file behind.
#[tokio::test]
async fn a_crashed_server_is_refused() {
    let server = server_wanting(Auth::None);
    server.crash();
    for transport in transports() {
        let pool = pool(&server, transport, Resp::Resp2, Auth::None);
        ask_until_dialed(&pool, 5).await;
        assert_eq!(dials(&pool).keys().collect::<Vec<_>>(), [&"refused"], "{transport:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_a_timeout_at_the_connect_timeout() {
    let connect_timeout = Duration::from_millis(150);
    let server = server_wanting(PASSWORD);
    for transport in transports() {
        for resp in EVERY_RESP {
            let url = server.url_with(transport, resp, PASSWORD, 0);
            let builder = builder(&server, &url);
            let pool = builder.connect_timeout(connect_timeout).build().unwrap();
            server.pause();
            let begun = Instant::now();

            ask_until_dialed(&pool, 2).await;

            let took = begun.elapsed();
            assert_eq!(dials(&pool), [("timeout", 2)].into(), "{transport:?} {resp:?}");
            let stage = match transport {
                Transport::Tls => "connected, but the TLS handshake has had no answer",
                Transport::Tcp | Transport::Unix => "the first commands have had no answer",
            };
            let said = pool.status().breaker.last_failure.unwrap().to_string();
            assert!(said.contains(stage) && said.contains("connect timeout"), "{said}");
            assert!(took >= 2 * connect_timeout && took < AT_ONCE, "{took:?}");
            server.resume();
            ask_until_served(&pool).await;
        }
    }
}

/// The kernel queues connections that nobody accepts; over a Unix socket it then says so at once.
#[tokio::test]
async fn a_full_backlog_of_a_unix_socket_is_a_timeout() {
    let server = TestServer::builder().arg("tcp-backlog", "1").start().unwrap();
    let builder = impatient(&server.unix_url()).connect_timeout(Duration::from_millis(50));
    let pool = builder.build().unwrap();
    server.pause();

    ask_until_dialed(&pool, 6).await;

    assert_eq!(dials(&pool).keys().collect::<Vec<_>>(), [&"timeout"]);
    server.resume();
    ask_until_served(&pool).await;
}

#[tokio::test]
async fn a_server_that_loads_its_data_is_loading_until_it_has_loaded() {
    if lacks(LOADS_SLOWLY, SEVEN) {
        return;
    }
    let server = server_wanting(PASSWORD);
    server.restart_into_loading().unwrap();
    let pools: Vec<_> = EVERY_RESP
        .iter()
        .flat_map(|resp| transports().into_iter().map(|transport| (transport, *resp)))
        .map(|(transport, resp)| pool(&server, transport, resp, PASSWORD))
        .collect();
    for pool in &pools {
        let told = ask_until_dialed(pool, 6).await;
        assert_eq!(dials(pool).keys().collect::<Vec<_>>(), [&"loading"]);
        assert!(told.iter().any(|error| error.to_string().contains("LOADING")), "{told:?}");
    }

    server.finish_loading();

    for pool in &pools {
        ask_until_served(pool).await;
    }
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_misconfigured() {
    let server = server_wanting(PASSWORD);
    for transport in transports() {
        for resp in EVERY_RESP {
            let url = server.url_with(transport, resp, PASSWORD, 99);
            let pool = builder(&server, &url).build().unwrap();

            let error = pool.acquire("test").await.unwrap_err();

            let case = format!("{transport:?} {resp:?}: {error}");
            assert_eq!(dials(&pool), [("misconfigured", 1)].into(), "{case}");
            assert!(error.to_string().contains("DB index is out of range"), "{case}");
        }
    }
}

#[cfg(any(feature = "tls-rustls", feature = "tls-native-tls"))]
#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_misconfigured() {
    if lacks_tls() {
        return;
    }
    let server = server_wanting(Auth::None);
    let other = server_wanting(Auth::None);
    let pool = builder(&other, &server.tls_url()).build().unwrap();

    let error = pool.acquire("test").await.unwrap_err();

    assert_eq!(dials(&pool), [("misconfigured", 1)].into(), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_dns() {
    // Slow resolvers are no matter of this test.
    let builder = impatient("redis://no-such-host.invalid:6379").connect_timeout(LONG);
    let pool = builder.acquire_timeout(LONG).build().unwrap();
    ask_until_dialed(&pool, 1).await;
    assert_eq!(dials(&pool).keys().collect::<Vec<_>>(), [&"dns"]);
}

/// Set in the process that runs out of files, which is this test once more: the other tests of this
/// one need theirs.
const OUT_OF_FILES: &str = "REDIS_GUARD_TEST_OUT_OF_FILES";

/// The system's resolver says then that it does not know the name.
#[cfg(unix)]
#[tokio::test]
async fn a_process_without_a_file_left_is_local_limit() {
    if let Ok(port) = std::env::var(OUT_OF_FILES) {
        return dial_without_files(&port).await;
    }
    let server = server_wanting(Auth::None);
    let this = std::env::current_exe().unwrap();
    let child = std::process::Command::new("sh")
        .args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\" --nocapture"])
        .arg(this)
        .arg("a_process_without_a_file_left_is_local_limit")
        .env(OUT_OF_FILES, server.port().to_string())
        .output()
        .unwrap();
    let said = [child.stdout, child.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

async fn dial_without_files(port: &str) {
    // What is made on first use, a thread for lookups for one. No lookup is on its way afterwards,
    // whose file would be free when it ends.
    assert!(tokio::net::lookup_host(("no-such-host.invalid", 6379)).await.is_err());
    let mut files = Vec::new();
    for host in ["localhost", "127.0.0.1", "no-such-host.invalid"] {
        while let Ok(file) = std::fs::File::open("/dev/null") {
            files.push(file);
        }
        let pool = impatient(&format!("redis://{host}:{port}")).build().unwrap();
        ask_until_dialed(&pool, 2).await;
        let said = pool.status().breaker.last_failure.unwrap().to_string();
        assert_eq!(dials(&pool).keys().collect::<Vec<_>>(), [&"local_limit"], "{host}: {said}");
        assert!(said.contains("ulimit -n"), "{host}: {said}");
    }
    files.clear();
    let pool = impatient(&format!("redis://localhost:{port}")).build().unwrap();
    ask_until_served(&pool).await;
}

/// `localhost` has two addresses on most machines; a full server refuses one dial at one of them.
#[tokio::test]
async fn a_name_with_several_addresses_costs_one_slot_a_dial() {
    let server = TestServer::builder().maxclients(4).arg("bind", "127.0.0.1 -::1").start().unwrap();
    let _occupants = server.fill();
    let refused_before = server.admin().info_u64("rejected_connections");
    let pool = impatient(&format!("redis://localhost:{}", server.port())).build().unwrap();

    ask_until_dialed(&pool, 10).await;

    let refused = || server.admin().info_u64("rejected_connections") - refused_before;
    let all_have_ended = async {
        // One may be on its way, which the server has refused and the pool has not heard of yet.
        while dials(&pool) != [("max_clients", refused())].into() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let ended = timeout(AT_ONCE, all_have_ended).await;
    assert!(ended.is_ok(), "{:?} are {} to the server", dials(&pool), refused());
}

#[tokio::test]
async fn an_address_where_nobody_listens_gives_way_to_the_names_next() {
    let server = TestServer::builder().arg("bind", "127.0.0.1").start().unwrap();
    let pool = impatient(&format!("redis://localhost:{}", server.port())).build().unwrap();

    pool.acquire("test").await.unwrap();

    assert_eq!(dials(&pool), [("connected", 1)].into());
}

#[tokio::test]
async fn protected_mode_is_denied_and_fails_at_once() {
    if lacks("protected mode beside a bind", SEVEN) {
        return;
    }
    let Some(address) = outside_address() else {
        return skip("this machine has only a loopback address (tests/vendors.rs has the text)");
    };
    let server = TestServer::builder().arg("bind", "*").start().unwrap();
    let url = format!("redis://{address}:{}", server.port());
    let pool = impatient(&url).acquire_timeout(LONG).build().unwrap();

    let error = timeout(AT_ONCE, pool.acquire("test")).await.unwrap().unwrap_err();

    assert!(matches!(error.rejection(), Some(Rejection::ConnectFailed { .. })), "{error:?}");
    assert!(error.to_string().contains("protected mode"), "{error}");
    assert_eq!(dials(&pool), [("denied", 1)].into());
}

/// An address of this machine that a server does not take for loopback. Nothing is sent.
fn outside_address() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_loopback())
}
