//! Credentials that change on a live pool, on a server that closes every connection of a user that it
//! deletes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redis_guard::{Budget, Error, Event, GuardedConnection, GuardedPool, PubSubEvent, Rejection};
use redis_guard::{GuardedPoolBuilder, redis};

use crate::support::{SEVEN, TestServer, ask_until_served, impatient, program};
use crate::waiting::{cmd, next, soon, until};

fn server() -> TestServer {
    let server = TestServer::builder().acl_user("old", "first").start().unwrap();
    server.admin().text(&["ACL", "SETUSER", "new", "on", ">second", "~*", "&*", "+@all"]);
    server
}

fn builder(server: &TestServer, protocol: &str) -> GuardedPoolBuilder {
    let port = server.port();
    impatient(&format!("redis://old:first@127.0.0.1:{port}?protocol={protocol}"))
}

async fn user(lease: &mut GuardedConnection) -> String {
    cmd("ACL WHOAMI").query_async(lease).await.unwrap()
}

/// How many connections of this user's the server counts.
fn of_user(server: &TestServer, user: &str) -> usize {
    server.admin().client_list().iter().filter(|client| client["user"] == user).count()
}

fn closed(pool: &GuardedPool, reason: &str) -> u64 {
    pool.status().connections_closed.get(reason).copied().unwrap_or_default()
}

/// Calls over leases and shared handles, until it is told to stop; how many there were. None fails.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    callers: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(pool: &GuardedPool) -> Self {
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let caller = |number: usize| {
            let (pool, stop, calls) = (pool.clone(), Arc::clone(&stop), Arc::clone(&calls));
            tokio::spawn(async move {
                let mut shared = pool.shared("shared");
                while !stop.load(Ordering::Relaxed) {
                    let set = cmd("SET key value");
                    if number < 4 {
                        let mut lease = pool.acquire("leases").await.unwrap();
                        set.exec_async(&mut lease).await.unwrap();
                        let mut both = redis::pipe();
                        both.atomic().cmd("GET").arg("key").cmd("DEL").arg("key");
                        let _: (Option<String>, u64) = both.query_async(&mut lease).await.unwrap();
                    } else {
                        set.exec_async(&mut shared).await.unwrap();
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let callers = (0..8).map(caller).collect();
        Self { stop, calls, callers }
    }

    async fn some(&self, pool: &GuardedPool) {
        let then = self.calls.load(Ordering::Relaxed) + 100;
        until("calls", pool, || self.calls.load(Ordering::Relaxed) > then).await;
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            soon("its calls", caller).await.unwrap();
        }
    }
}

/// Hears every number that is published, in order, and perhaps some twice, until what is published is none.
fn listen(pool: &GuardedPool) -> tokio::task::JoinHandle<u64> {
    let pool = pool.clone();
    tokio::spawn(async move {
        let mut subscriber = pool.pubsub("subscribers").await.unwrap();
        if program().redis_version() >= SEVEN {
            subscriber.ssubscribe("numbers").await.unwrap();
        }
        subscriber.subscribe("numbers").await.unwrap();
        let mut heard = 0;
        loop {
            match subscriber.next().await.unwrap().unwrap() {
                PubSubEvent::Message(message) => {
                    let text: String = message.get_payload().unwrap();
                    let Ok(number) = text.parse::<u64>() else { return heard };
                    assert!(number <= heard + 1, "{number} came after {heard}");
                    heard = heard.max(number);
                }
                other => panic!("expected a message, got {other:?}"),
            }
        }
    })
}

/// To the channel what is even, and to the shard channel, where there is one, what is odd. How many heard it.
fn publish(server: &TestServer, number: u64) -> String {
    let to_all = number.is_multiple_of(2) || program().redis_version() < SEVEN;
    let command = if to_all { "PUBLISH" } else { "SPUBLISH" };
    server.admin().text(&[command, "numbers", &number.to_string()])
}

#[tokio::test]
async fn a_pool_under_load_changes_its_user_without_a_failed_request() {
    for protocol in ["resp2", "resp3"] {
        let server = server();
        let pool = builder(&server, protocol).max_connections(8).build().unwrap();
        let mut held = pool.acquire("held").await.unwrap();
        let load = Load::start(&pool);
        let listener = listen(&pool);
        until("the subscriber", &pool, || publish(&server, 0) == "1").await;
        load.some(&pool).await;
        let mut published = 0;

        pool.set_credentials(Some("new"), "second");
        until("all but the lease", &pool, || {
            published += 1;
            publish(&server, published);
            of_user(&server, "old") == 1
        })
        .await;
        assert_eq!(user(&mut held).await, "new");
        // Closes whatever is still connected as that user.
        server.admin().text(&["ACL", "DELUSER", "old"]);
        load.some(&pool).await;
        server.admin().text(&["PUBLISH", "numbers", "the last one"]);
        assert_eq!(soon("the subscriber", listener).await.unwrap(), published);
        load.stop().await;
        assert_eq!(user(&mut held).await, "new");
        let status = pool.status();
        assert!(status.endpoints.iter().all(|endpoint| endpoint.rejected.is_empty()));
        // The subscriber's, which cannot authenticate again.
        assert_eq!((closed(&pool, "peer"), closed(&pool, "replaced")), (0, 1), "{status:#?}");
    }
}

#[tokio::test]
async fn a_transaction_that_is_open_is_left_alone() {
    let server = server();
    let pool = builder(&server, "resp2").max_connections(1).build().unwrap();
    let mut lease = pool.acquire("test").await.unwrap();
    cmd("MULTI").exec_async(&mut lease).await.unwrap();

    pool.set_credentials(Some("new"), "second");

    cmd("SET key value").exec_async(&mut lease).await.unwrap();
    let replies: Vec<String> = cmd("EXEC").query_async(&mut lease).await.unwrap();
    assert_eq!(replies, ["OK"]);
    assert_eq!(user(&mut lease).await, "new");
    cmd("WATCH key").exec_async(&mut lease).await.unwrap();
    pool.set_credentials(Some("old"), "first");
    drop(lease);
    let mut again = soon("the reset", pool.acquire("test")).await.unwrap();
    assert_eq!(user(&mut again).await, "old");
}

#[tokio::test]
async fn a_wrong_new_password_costs_no_live_connection() {
    let server = server();
    let pool = builder(&server, "resp2").max_connections(8).build().unwrap();
    let mut events = pool.events();
    pool.warm_up(2).await.unwrap();
    let mut shared = pool.shared("shared");
    cmd("PING").exec_async(&mut shared).await.unwrap();
    let live = pool.status().live;

    pool.set_credentials(Some("new"), "wrong");

    let failed = |event: &Event| matches!(event, Event::CredentialsFailed { .. });
    let Event::CredentialsFailed { reason, .. } = next("why", &mut events, failed).await else {
        unreachable!("only that was wanted")
    };
    assert!(reason.contains("WRONGPASS"), "{reason}");
    cmd("PING").exec_async(&mut shared).await.unwrap();
    let mut leases = Vec::new();
    for _ in 0..live - 1 {
        let mut lease = pool.acquire("test").await.unwrap();
        assert_eq!(user(&mut lease).await, "old");
        leases.push(lease);
    }
    assert_eq!((pool.status().live, of_user(&server, "old")), (live, live));
    // One more than there are cannot be dialed.
    let mut more = Box::pin(pool.acquire("test"));
    let refused = |event: &Event| matches!(event, Event::DialFailed { .. });
    tokio::select! {
        _ = &mut more => panic!("nobody was let in"),
        _ = next("a refused dial", &mut events, refused) => {}
    }

    pool.set_credentials(Some("new"), "second");

    let mut more = soon("one more", more).await.unwrap();
    assert_eq!(user(&mut more).await, "new");
    drop(leases);
    until("all of them", &pool, || of_user(&server, "old") == 0).await;
    assert!(pool.status().connections_closed.is_empty(), "{:#?}", pool.status());
}

#[tokio::test]
async fn after_a_refused_dial_new_credentials_are_dialed_with_at_once() {
    let server = server();
    let url = format!("redis://old:wrong@127.0.0.1:{}", server.port());
    let pool = impatient(&url).build().unwrap();
    let told = pool.acquire("test").await.unwrap_err();
    assert!(told.to_string().contains("WRONGPASS"), "{told}");
    let told = pool.acquire("test").await.unwrap_err();
    assert!(matches!(told, Error::Rejected(Rejection::ConnectFailed { .. })), "{told}");

    pool.set_credentials(Some("new"), "second");

    let mut lease = pool.acquire("test").await.unwrap();
    assert_eq!(user(&mut lease).await, "new");
}

/// Its endpoint has no room for a second one, so it stays where it is.
#[tokio::test]
async fn a_subscriber_without_a_place_for_its_successor_goes_on() {
    let server = server();
    let builder = builder(&server, "resp2").endpoint("subscribers", Budget::max(1));
    let pool = builder.build().unwrap();
    let listener = listen(&pool);
    until("the subscriber", &pool, || publish(&server, 0) == "1").await;

    pool.set_credentials(Some("new"), "second");

    for number in 1..=20 {
        publish(&server, number);
        tokio::task::yield_now().await;
    }
    server.admin().text(&["PUBLISH", "numbers", "the last one"]);
    assert_eq!(soon("the subscriber", listener).await.unwrap(), 20);
    assert_eq!(closed(&pool, "peer"), 0);
}

mod provided {
    use std::pin::Pin;

    use futures_util::{Stream, StreamExt};
    use redis_guard::redis::{BasicAuth, RedisError, RedisResult, StreamingCredentialsProvider};
    use tokio::sync::watch;
    use tokio_stream::wrappers::WatchStream;

    use super::*;

    type Given = Option<Result<(&'static str, &'static str), &'static str>>;

    /// Gives what it was told last, and whatever it is told from then on.
    struct Provider(watch::Receiver<Given>);

    impl Provider {
        fn new() -> (watch::Sender<Given>, Self) {
            let (sender, receiver) = watch::channel(None);
            (sender, Self(receiver))
        }
    }

    impl StreamingCredentialsProvider for Provider {
        fn subscribe(&self) -> Pin<Box<dyn Stream<Item = RedisResult<BasicAuth>> + Send>> {
            let given = |given: Given| async move {
                given.map(|given| match given {
                    Ok((user, password)) => {
                        Ok(BasicAuth::new(user.to_owned(), password.to_owned()))
                    }
                    Err(why) => {
                        let kind = redis::ErrorKind::AuthenticationFailed;
                        Err(RedisError::from((kind, "no token", why.to_owned())))
                    }
                })
            };
            Box::pin(WatchStream::new(self.0.clone()).filter_map(given))
        }
    }

    fn pair() -> (TestServer, GuardedPool, watch::Sender<Given>) {
        let server = server();
        let (sender, provider) = Provider::new();
        let url = format!("redis://127.0.0.1:{}", server.port());
        let pool = impatient(&url).credentials_provider(provider).build().unwrap();
        (server, pool, sender)
    }

    #[tokio::test]
    async fn nothing_is_dialed_before_a_provider_has_given_credentials() {
        let (_server, pool, provider) = pair();
        let mut caller = Box::pin(pool.acquire("test"));
        tokio::select! {
            _ = &mut caller => panic!("nobody could be let in"),
            () = until("the caller", &pool, || pool.status().waiting == 1) => {}
        }
        assert_eq!(pool.status().dialing, 0);

        provider.send_replace(Some(Ok(("old", "first"))));

        let mut lease = soon("the caller", caller).await.unwrap();
        assert_eq!(user(&mut lease).await, "old");
        assert!(pool.status().dials.values().sum::<u64>() == 1, "{:#?}", pool.status());
    }

    #[tokio::test]
    async fn what_a_provider_gives_later_is_used_from_then_on() {
        let (server, pool, provider) = pair();
        provider.send_replace(Some(Ok(("old", "first"))));
        pool.warm_up(3).await.unwrap();

        provider.send_replace(Some(Ok(("new", "second"))));

        until("all of them", &pool, || of_user(&server, "new") == 3).await;
        server.admin().text(&["ACL", "DELUSER", "old"]);
        let mut lease = pool.acquire("test").await.unwrap();
        assert_eq!(user(&mut lease).await, "new");
        assert_eq!(pool.status().live, 3);
    }

    #[tokio::test]
    async fn callers_hear_why_a_provider_that_never_gave_any_has_none() {
        let (_server, pool, provider) = pair();
        provider.send_replace(Some(Err("the tenant is unknown")));

        let told = soon("a refusal", pool.acquire("test")).await.unwrap_err();

        assert!(told.to_string().contains("the tenant is unknown"), "{told}");
        provider.send_replace(Some(Ok(("old", "first"))));
        let mut lease = ask_until_served(&pool).await;
        assert_eq!(user(&mut lease).await, "old");
    }

    #[tokio::test]
    async fn a_provider_that_fails_later_costs_nothing() {
        let (server, pool, provider) = pair();
        provider.send_replace(Some(Ok(("old", "first"))));
        pool.warm_up(2).await.unwrap();
        let mut events = pool.events();

        provider.send_replace(Some(Err("the tenant is unknown")));

        let failed = |event: &Event| matches!(event, Event::CredentialsFailed { .. });
        let event = next("why", &mut events, failed).await;
        assert!(format!("{event:?}").contains("the tenant is unknown"), "{event:?}");
        pool.warm_up(3).await.unwrap();
        drop(provider);
        let event = next("the end of the stream", &mut events, failed).await;
        assert!(format!("{event:?}").contains("ended"), "{event:?}");
        assert_eq!(of_user(&server, "old"), 3);
    }
}
