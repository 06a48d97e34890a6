//! No password leaves the pool by any way out: Debug, Display, errors, status, events, logs,
//! metrics.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

mod support;

use std::fmt::Debug;
use std::time::Duration;

use futures_util::FutureExt;
use metrics_util::debugging::DebuggingRecorder;
use redis_guard::{GuardedPool, GuardedPoolBuilder};
use support::log::Log;
use support::{
    Auth, Resp, TestServer, Transport, VendorScript, VendorServer, ask_until_dialed,
    ask_until_served, impatient,
};

const SECRET: &str = "hush/hush+7";
/// The same as it stands in a URL.
const ESCAPED: &str = "hush%2Fhush%2B7";
const USER: Auth<'_> = Auth::User("alice", SECRET);

/// Everything that was said while a scenario ran.
#[derive(Debug, Default)]
struct Said(Vec<(&'static str, String)>);

impl Said {
    fn debug(&mut self, what: &'static str, value: &dyn Debug) {
        self.0.push((what, format!("{value:?} {value:#?}")));
    }

    fn pool(&mut self, pool: &GuardedPool) {
        self.debug("the pool", pool);
        self.debug("the status", &pool.status());
        self.0.push(("the status as JSON", serde_json::to_string(&pool.status()).unwrap()));
        self.debug("the breaker's handle", &pool.breaker());
    }

    fn error(&mut self, error: &redis_guard::Error) {
        self.debug("an error", error);
        self.0.push(("an error's text", error.to_string()));
        let error = redis::RedisError::from(error.clone());
        self.debug("a redis error", &error);
        self.0.push(("a redis error's text", error.to_string()));
    }

    #[track_caller]
    fn has_no_secret(&self) {
        for (what, text) in &self.0 {
            let told = text.contains(SECRET) || text.contains(ESCAPED);
            assert!(!told, "{what} tells the password: {text}");
        }
    }
}

/// Runs a pool through a scenario, with a log subscriber and a metrics recorder that take all.
async fn everything_said<F>(
    builder: GuardedPoolBuilder,
    scenario: impl FnOnce(GuardedPool) -> F,
) -> Said
where
    F: Future<Output = Said>,
{
    let log = Log::default();
    // Both are the thread's, and a test's runtime has one thread.
    let _logging = log.listen(tracing::Level::TRACE);
    let recorder = DebuggingRecorder::new();
    let _recording = metrics::set_default_local_recorder(&recorder);

    let built = format!("{builder:?} {builder:#?}");
    let pool = builder.build().unwrap();
    let mut events = pool.events();
    let mut said = scenario(pool.clone()).await;
    said.0.push(("the builder", built));
    said.pool(&pool);
    let metrics = until_published(&recorder).await;
    said.0.push(("the metrics", metrics));
    pool.close().await;
    said.pool(&pool);
    said.error(&pool.acquire("test").await.unwrap_err());
    while let Some(Some(event)) = events.next().now_or_never() {
        said.debug("an event", &event);
    }
    said.0.push(("the log", log.text()));
    said
}

/// The metrics, names and labels, once the pool has published its counters.
async fn until_published(recorder: &DebuggingRecorder) -> String {
    loop {
        let snapshot = format!("{:?}", recorder.snapshotter().snapshot().into_vec());
        if snapshot.contains("redis_guard_dials_total") {
            return snapshot;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn credentials_that_change_and_are_refused_tell_no_secret() {
    let server = TestServer::builder().acl_user("alice", "first").start().unwrap();
    let url = format!("redis://alice:first@127.0.0.1:{}", server.port());
    // No longer than it takes to be refused.
    let builder = impatient(&url).acquire_timeout(Duration::from_millis(500));
    let said = everything_said(builder, |pool| async move {
        let mut said = Said::default();
        let mut events = pool.events();
        let mut connection = ask_until_served(&pool).await;
        // Unknown yet.
        pool.set_credentials(Some("alice"), SECRET);
        let _: () = redis::cmd("PING").query_async(&mut connection).await.unwrap();
        while let Some(event) = events.next().await {
            said.debug("an event", &event);
            if matches!(event, redis_guard::Event::CredentialsFailed { .. }) {
                break;
            }
        }
        let second = pool.pubsub("test").await.unwrap_err();
        said.error(&second);
        let password = format!(">{SECRET}");
        server.admin().text(&["ACL", "SETUSER", "alice", "resetpass", &password]);
        pool.set_credentials(Some("alice"), "another");
        pool.set_credentials(Some("alice"), SECRET);
        said.debug("a subscriber", &pool.pubsub("test").await.unwrap());
        said.debug("the connection", &connection);
        said
    });
    said.await.has_no_secret();
}

#[tokio::test]
async fn a_pool_that_serves_tells_no_secret() {
    let server = TestServer::builder().acl_user("alice", SECRET).start().unwrap();
    for (transport, resp) in [(Transport::Tcp, Resp::Resp2), (Transport::Unix, Resp::Resp3)] {
        let builder = impatient(&server.url_with(transport, resp, USER, 1));
        let said = everything_said(builder, |pool| async move {
            let mut said = Said::default();
            let mut connection = ask_until_served(&pool).await;
            said.debug("the connection", &connection);
            let user: String =
                redis::cmd("ACL").arg("WHOAMI").query_async(&mut connection).await.unwrap();
            assert_eq!(user, "alice");
            said.debug("the health", &pool.health().await.unwrap());
            said
        });
        said.await.has_no_secret();
    }
}

#[tokio::test]
async fn a_pool_made_from_a_client_or_a_config_tells_no_secret() {
    let server = TestServer::builder().acl_user("alice", SECRET).start().unwrap();
    let url = server.url_with(Transport::Tcp, Resp::Resp2, USER, 0);
    let builders = [
        GuardedPool::from_client(&redis::Client::open(url.as_str()).unwrap()),
        GuardedPool::from_config(deadpool_redis::Config::from_url(url)),
    ];
    for builder in builders {
        let said = everything_said(builder, |pool| async move {
            let mut said = Said::default();
            said.debug("the connection", &ask_until_served(&pool).await);
            said
        });
        said.await.has_no_secret();
    }
}

#[tokio::test]
async fn a_full_server_makes_no_secret_known() {
    let server = TestServer::builder().maxclients(4).acl_user("alice", SECRET).start().unwrap();
    let _occupants = server.fill();
    for resp in [Resp::Resp2, Resp::Resp3] {
        asked_ten_times(impatient(&server.url_with(Transport::Tcp, resp, USER, 0))).await;
    }
}

#[tokio::test]
async fn a_password_that_the_server_does_not_accept_stays_secret() {
    let server = TestServer::builder().acl_user("alice", "another").start().unwrap();
    for resp in [Resp::Resp2, Resp::Resp3] {
        let builder = impatient(&server.url_with(Transport::Tcp, resp, USER, 0));
        let said = everything_said(builder, |pool| async move {
            let mut said = Said::default();
            said.error(&pool.acquire("test").await.unwrap_err());
            said.error(&pool.acquire("test").await.unwrap_err());
            said.error(&pool.try_acquire("test").unwrap_err());
            said.error(&pool.warm_up(1).await.unwrap_err());
            said.error(&pool.health().await.unwrap_err());
            said
        });
        said.await.has_no_secret();
    }
}

#[tokio::test]
async fn a_server_that_echoes_the_password_makes_it_known_to_nobody() {
    let server = VendorServer::start(VendorScript::UnknownCommandEcho).await.unwrap();
    for protocol in ["protocol=resp2", "protocol=resp3"] {
        let url = server.url_with(&format!("alice:{ESCAPED}"), protocol);
        asked_ten_times(impatient(&url)).await;
    }
}

#[tokio::test]
async fn a_server_that_is_gone_makes_no_secret_known() {
    let server = TestServer::builder().acl_user("alice", SECRET).start().unwrap();
    server.stop();
    asked_ten_times(impatient(&server.url_with(Transport::Tcp, Resp::Resp3, USER, 0))).await;
}

async fn asked_ten_times(builder: GuardedPoolBuilder) {
    let said = everything_said(builder, |pool| async move {
        let mut said = Said::default();
        ask_until_dialed(&pool, 1).await.iter().for_each(|error| said.error(error));
        for _ in 0..10 {
            said.error(&pool.acquire("test").await.unwrap_err());
            said.error(&pool.try_acquire("test").unwrap_err());
        }
        said
    });
    said.await.has_no_secret();
}
