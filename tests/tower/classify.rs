//! What each error says about the server: real errors of real servers.

use std::time::Duration;

use redis_guard::deadpool_redis::{self, PoolError, Runtime};
use redis_guard::redis::{self, Client, ErrorKind, RedisError};
use redis_guard::tower::{ByAnyError, ByError, Classify, ClassifyError, Fixed, GuardLayer};
use redis_guard::{Class, Error, Guard, Outcome, Rejection};
use tokio::time::timeout;
use tower::{BoxError, Layer, ServiceExt, service_fn};

use crate::support::{LOADS_SLOWLY, SEVEN, TestServer, lacks};
use crate::waiting::cmd;
use crate::{Told, failed};

fn outcome(class: &Class) -> Option<Outcome> {
    match class {
        Class::Failed { outcome, .. } => Some(*outcome),
        _ => None,
    }
}

async fn connect(url: &str) -> Result<redis::aio::MultiplexedConnection, RedisError> {
    Client::open(url).unwrap().get_multiplexed_async_connection().await
}

/// The error of a command on a connection that works.
async fn told(server: &TestServer, lines: &[&str]) -> RedisError {
    let mut connection = connect(&server.url()).await.unwrap();
    let mut last = None;
    for line in lines {
        last = cmd(line).query_async::<redis::Value>(&mut connection).await.err();
    }
    last.unwrap()
}

#[tokio::test]
async fn an_error_reply_to_a_command_means_that_the_server_is_there() {
    let server = TestServer::start().unwrap();
    for lines in [
        &["SET k v", "LPUSH k v"][..],
        &["NOSUCHCOMMAND"],
        &["GET"],
        &["EVALSHA 0000000000000000000000000000000000000000 0"],
        &["SELECT 9999"],
        &["EXEC"],
        &["SET k v", "INCR k"],
        &["XREADGROUP GROUP g c STREAMS s >"],
        &["ACL SETUSER nobody on nopass +auth", "AUTH nobody x", "GET k"],
    ] {
        let error = told(&server, lines).await;
        assert_eq!(error.class(), Class::Worked, "{lines:?}: {error}");
    }
}

#[tokio::test]
async fn a_full_server_is_heard_through_redis_rs() {
    let server = TestServer::builder().maxclients(8).start().unwrap();
    let _occupants = server.fill();
    for _ in 0..20 {
        let error = connect(&server.url()).await.err().unwrap();
        let class = error.class();
        let full = [Outcome::MaxClients, Outcome::SuspectedMaxClients];
        assert!(
            outcome(&class).is_some_and(|outcome| full.contains(&outcome)),
            "{error}: {class:?}"
        );
    }
}

#[tokio::test]
async fn a_full_server_is_heard_through_deadpool() {
    let server = TestServer::builder().maxclients(8).start().unwrap();
    let pool = deadpool_redis::Config::from_url(server.url());
    let pool = pool.create_pool(Some(Runtime::Tokio1)).unwrap();
    let _occupants = server.fill();
    for _ in 0..20 {
        let error = pool.get().await.err().unwrap();
        let class = error.class();
        let full = [Outcome::MaxClients, Outcome::SuspectedMaxClients];
        assert!(
            outcome(&class).is_some_and(|outcome| full.contains(&outcome)),
            "{error}: {class:?}"
        );
    }
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_refused() {
    let url = "redis://127.0.0.1:1";
    let error = connect(url).await.err().unwrap();
    assert_eq!(outcome(&error.class()), Some(Outcome::Refused), "{error}");
    let pool = deadpool_redis::Config::from_url(url).create_pool(Some(Runtime::Tokio1)).unwrap();
    let error = pool.get().await.err().unwrap();
    assert_eq!(outcome(&error.class()), Some(Outcome::Refused), "{error}");
}

#[tokio::test]
async fn a_connection_that_was_killed_under_its_command_is_suspected() {
    let server = TestServer::start().unwrap();
    let mut connection = connect(&server.url()).await.unwrap();
    let id: u64 = cmd("CLIENT ID").query_async(&mut connection).await.unwrap();
    let blocked = tokio::spawn(async move {
        cmd("BLPOP nothing 0").query_async::<redis::Value>(&mut connection).await
    });
    let killed = || server.admin().text(&["CLIENT", "KILL", "ID", &id.to_string()]);
    while crate::waiting::field(&server, id, "cmd").as_deref() != Some("blpop") {
        tokio::task::yield_now().await;
    }
    killed();
    let error = blocked.await.unwrap().unwrap_err();
    assert_eq!(outcome(&error.class()), Some(Outcome::SuspectedMaxClients), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_told_as_such() {
    let server = TestServer::builder().password("right").start().unwrap();
    let error =
        connect(&format!("redis://:wrong@127.0.0.1:{}", server.port())).await.err().unwrap();
    assert_eq!(outcome(&error.class()), Some(Outcome::Auth), "{error}");
}

#[tokio::test]
async fn a_server_that_loads_its_data_says_so() {
    if lacks(LOADS_SLOWLY, SEVEN) {
        return;
    }
    let server = TestServer::start().unwrap();
    server.restart_into_loading().unwrap();
    let mut connection = connect(&server.url()).await.unwrap();
    let error = cmd("GET k").query_async::<redis::Value>(&mut connection).await.unwrap_err();
    assert_eq!(outcome(&error.class()), Some(Outcome::Loading), "{error}");
}

#[tokio::test]
async fn a_command_that_is_not_answered_in_time_timed_out() {
    let server = TestServer::start().unwrap();
    let config =
        redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_millis(20)));
    let client = Client::open(server.url()).unwrap();
    let mut connection =
        client.get_multiplexed_async_connection_with_config(&config).await.unwrap();
    let error = cmd("BLPOP k 0").query_async::<redis::Value>(&mut connection).await.unwrap_err();
    assert_eq!(outcome(&error.class()), Some(Outcome::Timeout), "{error}");
}

#[tokio::test]
async fn a_pools_own_limits_say_nothing_about_the_server_and_a_dial_that_hangs_does() {
    use deadpool_redis::TimeoutType::{Create, Recycle, Wait};
    let server = TestServer::start().unwrap();
    let mut config = deadpool_redis::Config::from_url(server.url());
    config.pool = Some(deadpool_redis::PoolConfig::new(1));
    let pool = config.create_pool(Some(Runtime::Tokio1)).unwrap();
    let _held = pool.get().await.unwrap();
    let waited = deadpool_redis::Timeouts::wait_millis(5);
    let error = pool.timeout_get(&waited).await.err().unwrap();
    assert!(matches!(error, PoolError::Timeout(Wait)), "{error}");
    assert_eq!(error.class(), Class::Unknown);
    assert_eq!(PoolError::Timeout(Recycle).class(), Class::Unknown);
    assert_eq!(outcome(&PoolError::Timeout(Create).class()), Some(Outcome::Timeout));
    pool.close();
    assert_eq!(pool.get().await.err().unwrap().class(), Class::Unknown);
}

#[test]
fn the_drivers_own_errors() {
    let io = |kind: std::io::ErrorKind| RedisError::from(std::io::Error::from(kind));
    use std::io::ErrorKind as Io;
    for (error, expected) in [
        (io(Io::TimedOut), Some(Outcome::Timeout)),
        (io(Io::ConnectionRefused), Some(Outcome::Refused)),
        (io(Io::ConnectionReset), Some(Outcome::SuspectedMaxClients)),
        (io(Io::BrokenPipe), Some(Outcome::SuspectedMaxClients)),
        (io(Io::UnexpectedEof), Some(Outcome::SuspectedMaxClients)),
        (RedisError::from((ErrorKind::AuthenticationFailed, "no")), Some(Outcome::Auth)),
        // Where the driver has no I/O error to show, its connection has ended.
        (RedisError::from((ErrorKind::Io, "gone")), Some(Outcome::SuspectedMaxClients)),
        (io(Io::PermissionDenied), Some(Outcome::Other)),
    ] {
        assert_eq!(outcome(&error.class()), expected, "{error}");
    }
    let own = RedisError::from(Rejection::Closed);
    assert_eq!(own.class(), Class::Unknown, "a refusal of ours, in the driver's words");
    let parse = RedisError::from((ErrorKind::UnexpectedReturnType, "not a number"));
    assert_eq!(parse.class(), Class::Worked);
}

#[test]
fn the_guards_errors() {
    assert_eq!(Error::<RedisError>::Rejected(Rejection::Closed).class(), Class::Unknown);
    let inner = Error::Inner(Told(failed(Outcome::Loading)));
    assert_eq!(inner.class(), failed(Outcome::Loading));
    let nested: Error<Error<Told>> = Error::Inner(Error::Rejected(Rejection::Closed));
    assert_eq!(nested.class(), Class::Unknown);
}

#[derive(Debug)]
struct Around(BoxError);

impl std::fmt::Display for Around {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("around")
    }
}

impl std::error::Error for Around {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.0.as_ref())
    }
}

/// Two boxes deep.
fn around(error: impl Into<BoxError>) -> BoxError {
    Around(Around(error.into()).into()).into()
}

#[tokio::test]
async fn a_boxed_error_is_read_along_its_chain() {
    let refused = || RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
    let reply = || redis::make_extension_error("WRONGTYPE".to_owned(), Some("of key".to_owned()));
    let full = || {
        let words = Some("max number of clients reached".to_owned());
        redis::make_extension_error("ERR".to_owned(), words)
    };
    let elapsed = tower::timeout::Timeout::new(
        tower::service_fn(|()| std::future::pending::<Result<(), BoxError>>()),
        Duration::from_millis(1),
    );
    let elapsed = elapsed.oneshot(()).await.unwrap_err();
    for (error, expected) in [
        (around(refused()), Some(Outcome::Refused)),
        (around(full()), Some(Outcome::MaxClients)),
        (around(PoolError::Backend(refused())), Some(Outcome::Refused)),
        (around(PoolError::Closed), None),
        (around(Error::Inner(refused())), Some(Outcome::Refused)),
        (around(Error::<RedisError>::Rejected(Rejection::Closed)), None),
        (around(Rejection::Closed), None),
        (elapsed, Some(Outcome::Timeout)),
        ("something else".into(), None),
        ("upstream said: ERR max number of clients reached".into(), Some(Outcome::MaxClients)),
        (around("upstream said: ERR max number of clients reached"), Some(Outcome::MaxClients)),
        (around(std::io::Error::from(std::io::ErrorKind::TimedOut)), Some(Outcome::Timeout)),
        (around(std::io::Error::other(around(refused()))), Some(Outcome::Refused)),
        (around(std::io::Error::other("the disk is full")), None),
    ] {
        assert_eq!(outcome(&error.class()), expected, "{error:?}");
    }
    assert_eq!(around(reply()).class(), Class::Worked);
    assert_eq!(BoxError::from("something else").class(), Class::Unknown);
}

/// The guarded service is none of Redis's: its errors are the sockets'.
#[tokio::test]
async fn the_errors_of_a_socket_are_read_wherever_they_are() {
    let connect = || tokio::net::TcpStream::connect("127.0.0.1:1");
    let error = connect().await.unwrap_err();
    assert_eq!(outcome(&error.class()), Some(Outcome::Refused), "{error}");

    let guard = Guard::builder().build().unwrap();
    let told = || guard.status().breaker.last_failure.map(|failure| failure.outcome);
    let plain = GuardLayer::new(&guard, "plain").layer(service_fn(move |()| connect()));
    assert!(plain.oneshot(()).await.is_err());
    assert_eq!(told(), Some(Outcome::Refused));
}

#[tokio::test]
async fn any_service_can_be_guarded_by_what_caused_its_error_or_by_a_closure() {
    type Told = Option<Outcome>;
    async fn heard<C>(classify: impl FnOnce(GuardLayer) -> GuardLayer<Fixed, C>) -> Told
    where
        C: Classify<Result<(), Around>> + Clone,
    {
        let guard = Guard::builder().build().unwrap();
        let layer = classify(GuardLayer::new(&guard, "x"));
        let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let service = service_fn(move |()| async move { Err::<(), _>(Around(refused().into())) });
        assert!(layer.layer(service).oneshot(()).await.is_err());
        guard.status().breaker.last_failure.map(|failure| failure.outcome)
    }
    assert_eq!(heard(|layer| layer.classify(ByAnyError)).await, Some(Outcome::Refused));
    let full = |_: &Around| failed(Outcome::MaxClients);
    assert_eq!(heard(|layer| layer.classify_errors(full)).await, Some(Outcome::MaxClients));
    assert_eq!(heard(|layer| layer.classify_errors(|_: &Around| Class::Unknown)).await, None);
}

#[test]
fn by_error_a_response_means_that_it_worked() {
    assert_eq!(ByError.classify(&Ok::<(), Told>(())), Class::Worked);
    let failure = failed(Outcome::Timeout);
    assert_eq!(ByError.classify(&Err::<(), _>(Told(failure.clone()))), failure);
    assert_eq!(ByError.classify(&Ok::<(), std::convert::Infallible>(())), Class::Worked);
}

#[test]
fn a_closure_classifies() {
    let closure = |result: &Result<u16, ()>| match result {
        Ok(200) => Class::Worked,
        _ => Class::Unknown,
    };
    assert_eq!(closure.classify(&Ok(200)), Class::Worked);
    assert_eq!(closure.classify(&Err(())), Class::Unknown);
}

#[cfg(feature = "http")]
#[test]
fn by_status_of_a_response() {
    use http::Response;
    use redis_guard::tower::ByStatus;

    let class = |status: u16| {
        let response = Response::builder().status(status).body(()).unwrap();
        ByStatus.classify(&Ok::<_, Told>(response))
    };
    for status in [200, 204, 301, 400, 401, 404, 408, 409, 429, 500, 501] {
        assert_eq!(class(status), Class::Worked, "{status}");
    }
    for (status, expected) in
        [(502, Outcome::Unreachable), (503, Outcome::Unreachable), (504, Outcome::Timeout)]
    {
        assert_eq!(outcome(&class(status)), Some(expected), "{status}");
    }
    let Class::Failed { message, .. } = class(503) else { unreachable!() };
    assert_eq!(message, "HTTP 503 Service Unavailable");
    let error = Err::<Response<()>, _>(Told(Class::Worked));
    assert_eq!(outcome(&ByStatus.classify(&error)), Some(Outcome::Other));
}

#[cfg(feature = "axum")]
#[test]
fn by_status_a_refusal_of_ours_says_nothing_about_the_server() {
    use axum::response::IntoResponse;
    use redis_guard::tower::ByStatus;

    let response = Rejection::Closed.into_response();
    assert_eq!(response.status(), 503);
    assert_eq!(ByStatus.classify(&Ok::<_, Told>(response)), Class::Unknown);
}

#[tokio::test]
async fn a_server_that_stands_still_is_a_timeout_of_whoever_waits() {
    let server = TestServer::start().unwrap();
    let mut connection = connect(&server.url()).await.unwrap();
    server.pause();
    let ping = cmd("PING");
    let call = ping.query_async::<redis::Value>(&mut connection);
    let told = timeout(Duration::from_millis(20), call).await;
    server.resume();
    assert!(told.is_err(), "which a timeout layer inside of the guard makes an `Elapsed`");
}
