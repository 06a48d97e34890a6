//! What a lease leaves behind on its connection, and what the next one finds.

use redis_guard::{AsyncCommands, CloseReason, GuardedConnection, GuardedPool, redis};

use crate::pair;
use crate::support::{Auth, Resp, SEVEN, TestServer, Transport, impatient, lacks};
use crate::waiting::{HANG, cmd, echo, executed, field, give_up, id, let_pass, next_close};
use crate::waiting::{poll_once, soon};

const NAME: &str = "tested";
const DATABASE: u32 = 2;
const PASSWORD: Auth<'_> = Auth::Password("open sesame");
const USER: Auth<'_> = Auth::User("alice", "rabbit");

/// One kind of connection: how it logs in, what it speaks, which database it uses.
struct Kind {
    server: TestServer,
    pool: GuardedPool,
    resp: Resp,
    user: &'static str,
    db: u32,
    case: String,
}

impl Kind {
    /// RESP2 and RESP3, with and without credentials, with and without a database.
    fn all() -> impl Iterator<Item = Self> {
        [Resp::Resp2, Resp::Resp3].into_iter().flat_map(|resp| {
            [Auth::None, PASSWORD, USER]
                .into_iter()
                .flat_map(move |auth| [0, DATABASE].map(|db| Self::new(resp, auth, db)))
        })
    }

    fn new(resp: Resp, auth: Auth<'static>, db: u32) -> Self {
        // The second user is for what a lease may leave behind.
        let builder = TestServer::builder().acl_user("bob", "carrot");
        let (builder, user) = match auth {
            Auth::None => (builder, "default"),
            Auth::Password(password) => (builder.password(password), "default"),
            Auth::User(user, password) => (builder.acl_user(user, password), user),
        };
        let server = builder.start().unwrap();
        let url = server.url_with(Transport::Tcp, resp, auth, db);
        let pool = impatient(&url).client_name(NAME).max_connections(1).build().unwrap();
        Self { server, pool, resp, user, db, case: format!("{resp:?}, {auth:?}, db {db}") }
    }

    async fn lease(&self) -> GuardedConnection {
        soon("a lease", self.pool.acquire("test")).await.unwrap()
    }

    /// The connection is as the dial left it.
    async fn is_as_new(&self, lease: &mut GuardedConnection, what: &str) {
        let case = format!("{what}: {}", self.case);
        assert_eq!(echo(lease, "hello").await.unwrap(), "hello", "{case}");
        let id = id(lease).await;
        let look = |name| field(&self.server, id, name);
        let resp = if self.resp == Resp::Resp2 { "2" } else { "3" };
        for (name, value) in [
            ("db", self.db.to_string().as_str()),
            ("name", NAME),
            ("user", self.user),
            ("sub", "0"),
            // In a transaction there is an `x` beside it.
            ("flags", "N"),
        ] {
            assert_eq!(look(name).as_deref(), Some(value), "{name} after {case}");
        }
        // Older servers do not tell.
        let told = look("resp");
        assert!(told.is_none_or(|told| told == resp), "resp after {case}");
        self.server.admin().text(&["FLUSHALL"]);
        let done = redis::pipe().atomic().add_command(cmd("ECHO done")).query_async(lease).await;
        assert_eq!(done, Ok(Some(vec!["done".to_owned()])), "a key is watched after {case}");
    }
}

/// After each of the command lists the next lease finds the same connection, as new.
async fn is_reset(lists: &[&[&str]]) {
    for kind in Kind::all() {
        let mut lease = kind.lease().await;
        let first = id(&mut lease).await;
        for list in lists {
            lease.set::<_, _, ()>("watched", "1").await.unwrap();
            for line in *list {
                let _: redis::Value = cmd(line).query_async(&mut lease).await.unwrap();
            }
            drop(lease);
            lease = kind.lease().await;
            kind.is_as_new(&mut lease, &list.join("; ")).await;
            assert_eq!(id(&mut lease).await, first, "{list:?}, {}", kind.case);
        }
    }
}

/// After the command the next lease finds another connection.
async fn is_closed(line: &str) {
    for kind in Kind::all() {
        let mut events = kind.pool.events();
        let mut lease = kind.lease().await;
        let first = id(&mut lease).await;
        let command = cmd(line);
        let mut reply = Box::pin(command.query_async::<redis::Value>(&mut lease));
        if line.starts_with("CLIENT REPLY") {
            // None comes, so that its time has to be over.
            assert!(poll_once(&mut reply).is_pending());
            executed(&kind.server, first, line).await;
            let_pass(HANG).await;
        }
        let _ = reply.await;
        drop(lease);

        let mut next = kind.lease().await;

        assert_eq!(next_close(&mut events).await, CloseReason::Dirty, "{line}, {}", kind.case);
        kind.is_as_new(&mut next, line).await;
        assert_ne!(id(&mut next).await, first, "{line}, {}", kind.case);
    }
}

#[tokio::test]
async fn a_watch_is_reset() {
    is_reset(&[&["WATCH watched"]]).await;
}

#[tokio::test]
async fn an_open_transaction_is_reset() {
    is_reset(&[&["MULTI"], &["MULTI", "SET k v"], &["WATCH watched", "MULTI", "GET k"]]).await;
}

#[tokio::test]
async fn another_database_is_reset() {
    is_reset(&[&["SELECT 0"], &["SELECT 7"]]).await;
}

#[tokio::test]
async fn another_user_is_reset() {
    is_reset(&[&["AUTH bob carrot"], &["HELLO 3 AUTH bob carrot"]]).await;
}

#[tokio::test]
async fn another_name_is_reset() {
    is_reset(&[&["CLIENT SETNAME other"]]).await;
}

#[tokio::test]
async fn tracking_is_reset() {
    is_reset(&[&["CLIENT TRACKING on BCAST"]]).await;
}

/// RESET does not take it back.
#[tokio::test]
async fn a_connection_exempt_from_eviction_is_not_lent_so() {
    if lacks("CLIENT NO-EVICT", SEVEN) {
        return;
    }
    let (server, pool) = pair(1);
    let mut lease = pool.acquire("test").await.unwrap();
    let _: redis::Value = cmd("CLIENT NO-EVICT on").query_async(&mut lease).await.unwrap();
    drop(lease);

    let mut next = soon("the next lease", pool.acquire("test")).await.unwrap();

    let id = id(&mut next).await;
    assert_eq!(field(&server, id, "flags").as_deref(), Some("N"));
}

#[tokio::test]
async fn a_finished_transaction_leaves_nothing_to_reset() {
    is_reset(&[&["WATCH watched", "MULTI", "EXEC"], &["WATCH watched", "UNWATCH"]]).await;
}

/// EXEC without MULTI is an error, and the keys stay watched.
#[tokio::test]
async fn keys_that_an_exec_in_vain_leaves_watched_are_reset() {
    let (server, pool) = pair(1);
    for line in ["EXEC", "DISCARD"] {
        let mut lease = soon("a lease", pool.acquire("test")).await.unwrap();
        let _: redis::Value = cmd("SET watched 1").query_async(&mut lease).await.unwrap();
        let _: redis::Value = cmd("WATCH watched").query_async(&mut lease).await.unwrap();
        cmd(line).query_async::<redis::Value>(&mut lease).await.unwrap_err();
        drop(lease);

        let mut next = soon("the next lease", pool.acquire("test")).await.unwrap();

        server.admin().text(&["FLUSHALL"]);
        let mut transaction = redis::pipe();
        transaction.atomic().add_command(cmd("ECHO done"));
        let done: Option<Vec<String>> = transaction.query_async(&mut next).await.unwrap();
        assert_eq!(done, Some(vec!["done".to_owned()]), "after {line}");
    }
}

#[tokio::test]
async fn a_subscriber_is_closed() {
    is_closed("SUBSCRIBE channel").await;
}

#[tokio::test]
async fn a_pattern_subscriber_is_closed() {
    is_closed("PSUBSCRIBE c*").await;
}

#[tokio::test]
async fn a_monitor_is_closed() {
    is_closed("MONITOR").await;
}

#[tokio::test]
async fn a_connection_without_replies_is_closed() {
    is_closed("CLIENT REPLY OFF").await;
    is_closed("CLIENT REPLY SKIP").await;
}

#[tokio::test]
async fn an_abandoned_blocking_command_closes_its_connection() {
    for line in ["BLPOP list 0", "BZPOPMIN set 0", "XREAD BLOCK 0 STREAMS stream $", "WAIT 9 0"] {
        let (server, pool) = pair(1);
        let mut events = pool.events();
        let mut lease = pool.acquire("test").await.unwrap();
        give_up(&server, &mut lease, line).await;
        drop(lease);

        let mut next = soon("the next lease", pool.acquire("test")).await.unwrap();

        assert_eq!(next_close(&mut events).await, CloseReason::Dirty, "{line}");
        assert_eq!(echo(&mut next, "hello").await.unwrap(), "hello", "{line}");
    }
}

#[tokio::test]
async fn a_blocking_command_that_was_answered_keeps_its_connection() {
    let (server, pool) = pair(1);
    let mut lease = pool.acquire("test").await.unwrap();
    let first = id(&mut lease).await;
    server.admin().text(&["RPUSH", "list", "one"]);
    let _: (String, String) = lease.blpop("list", 0.0).await.unwrap();
    drop(lease);

    let mut next = pool.acquire("test").await.unwrap();

    assert_eq!(id(&mut next).await, first);
}

#[tokio::test]
async fn a_dirty_connection_is_nobodys_until_it_is_reset() {
    let (_server, pool) = pair(1);
    let mut lease = pool.acquire("test").await.unwrap();
    let _: redis::Value = cmd("SELECT 3").query_async(&mut lease).await.unwrap();
    drop(lease);

    let status = pool.status();

    assert_eq!((status.live, status.idle, status.in_use), (1, 0, 0));
    soon("the reset", pool.acquire("test")).await.unwrap();
}
