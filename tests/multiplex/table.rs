//! What takes a connection, and what becomes of it.

use std::collections::BTreeSet;

use redis_guard::redis::{Pipeline, Value, pipe};
use redis_guard::{Budget, GuardedConnection};

use crate::support::TestServer;
use crate::support::server::Reply;
use crate::waiting::{field, poll_once, soon, until};
use crate::{
    NAME, ask, at_rest, calls, connections, endpoint, ids, lane_id, lease, leases, pair, pair_with,
    refused, send,
};

/// Each changes the connection, or tells of it, and is answered well by a server with defaults.
const TAKES: [&str; 25] = [
    "WATCH key",
    "MULTI",
    "SELECT 1",
    "select 0",
    "CLIENT ID",
    "CLIENT INFO",
    "client getname",
    "CLIENT SETNAME other",
    "CLIENT LIST",
    "CLIENT NO-EVICT ON",
    "CLIENT TRACKINGINFO",
    "CLIENT TRACKING ON BCAST",
    "CLIENT UNPAUSE",
    "HELLO",
    "HELLO 2",
    "RESET",
    "SUBSCRIBE channel",
    "PSUBSCRIBE pattern",
    "SSUBSCRIBE channel",
    "UNSUBSCRIBE",
    "PUNSUBSCRIBE",
    "SUNSUBSCRIBE",
    "MONITOR",
    "REPLCONF listening-port 1",
    "SCRIPT DEBUG NO",
];

/// The same, answered with an error.
const TAKES_IN_VAIN: [&str; 7] =
    ["EXEC", "DISCARD", "AUTH user password", "READONLY", "READWRITE", "ASKING", "CLIENT"];

/// Each blocks for a moment.
const BLOCKING: [&str; 12] = [
    "BLPOP list 0.01",
    "brpop list 0.01",
    "BLMOVE list other LEFT LEFT 0.01",
    "BRPOPLPUSH list other 0.01",
    "BLMPOP 0.01 1 list LEFT",
    "BZPOPMIN zset 0.01",
    "BZPOPMAX zset 0.01",
    "BZMPOP 0.01 1 zset MIN",
    "WAIT 1 10",
    "XREAD BLOCK 10 STREAMS stream $",
    "XREADGROUP GROUP group consumer BLOCK 10 STREAMS stream >",
    // An error, on a server that blocks nobody for it.
    "WAITAOF 0 0 10",
];

/// Every connection of the pool's is as the dial left it.
fn assert_clean(server: &TestServer, after: &str) {
    for id in ids(server) {
        let fields = ["name", "db", "flags", "sub", "psub"];
        let now = fields.map(|name| field(server, id, name).unwrap_or_default());
        assert_eq!(now, [NAME, "0", "N", "0", "0"], "after {after}");
        // Where the server tells.
        let now = ["ssub", "resp"].map(|name| field(server, id, name));
        let as_new =
            now.iter().zip(["0", "2"]).all(|(now, new)| now.as_ref().is_none_or(|now| now == new));
        assert!(as_new, "{now:?} after {after}");
    }
}

async fn is_clean(lease: &mut GuardedConnection, after: &str) {
    assert_eq!(ask::<String>(lease, "CLIENT GETNAME").await, NAME, "after {after}");
    let told = refused(lease, "EXEC").await;
    assert!(told.to_string().contains("EXEC without MULTI"), "{told} after {after}");
}

#[tokio::test]
async fn each_of_these_takes_a_connection_until_the_drop_and_leaves_a_clean_one() {
    let (server, pool) = pair();
    for line in TAKES.into_iter().chain(TAKES_IN_VAIN) {
        let mut lease = lease(&pool, "test").await;
        let _: String = ask(&mut lease, "PING").await;
        assert!(!lease.is_exclusive(), "before {line}");

        let told = soon(line, send(&mut lease, line)).await;

        assert_eq!(told.is_ok(), TAKES.contains(&line), "{line}: {told:?}");
        assert!(lease.is_exclusive(), "{line}");
        assert_eq!(leases(&pool, "test"), (1, 1), "{line}");
        drop(lease);
        at_rest(&pool, &server).await;
        assert_clean(&server, line);
        let mut next = crate::lease(&pool, "test").await;
        is_clean(&mut next, line).await;
    }
}

/// The shared handles' table is the one that counts, and CLIENT and HELLO besides; it is held against the server's own
/// in the tests of shared connections.
#[tokio::test]
async fn whatever_a_shared_handle_refuses_takes_a_connection_and_nothing_else_does() {
    let (server, pool) = pair();
    let mut names = BTreeSet::new();
    note(&server.admin().command(&["COMMAND"]).unwrap(), &mut names);
    assert!(names.len() > 200, "{}", names.len());
    // They end the server, the patience of a test, or the pool's connections.
    for name in ["shutdown", "pfselftest", "sync"] {
        assert!(names.remove(name), "{name}");
    }
    let mut handle = pool.shared("test");
    let mut shared = lease(&pool, "test").await;
    let mut taken = 0;

    for name in names {
        let line = name.replace('|', " ");
        let told = soon(&line, handle.send(&crate::cmd(&line))).await;
        let is_refused = told.is_err_and(|error| error.to_string().contains("use `acquire`"));
        let tells = ["client", "hello"].contains(&&*name) || name.starts_with("client|");
        let takes = is_refused || tells;
        if takes {
            shared = lease(&pool, "test").await;
            taken += 1;
        }
        // Without arguments most of them are an error.
        let _ = soon(&line, send(&mut shared, &line)).await;
        assert_eq!(shared.is_exclusive(), takes, "{line}");
        if takes {
            shared = lease(&pool, "test").await;
        }
    }

    assert!(taken >= 35, "{taken}");
    drop(shared);
    at_rest(&pool, &server).await;
    assert_clean(&server, "all of them");
}

fn note(reply: &Reply, names: &mut BTreeSet<String>) {
    let Reply::Array(rows) = reply else { panic!("{reply:?}") };
    for row in rows {
        let Reply::Array(fields) = row else { panic!("{row:?}") };
        names.insert(fields[0].text());
        if let Some(subcommands) = fields.get(9) {
            note(subcommands, names);
        }
    }
}

#[tokio::test]
async fn from_then_on_everything_goes_over_it() {
    let (server, pool) = pair();
    let mut lease = lease(&pool, "test").await;
    let lane = lane_id(&server);
    let id: u64 = ask(&mut lease, "CLIENT ID").await;
    assert_ne!(id, lane);

    let () = ask(&mut lease, "SELECT 3").await;
    let () = ask(&mut lease, "SET key value").await;
    let mut pipeline = pipe();
    pipeline.cmd("CLIENT").arg("ID").get("key");
    let piped: (u64, String) = soon("it", pipeline.query_async(&mut lease)).await.unwrap();
    let _: Value = ask(&mut lease, "BLPOP list 0.01").await;
    let seen = until_read_by(&server, id, &mut lease, "GET key").await;

    assert_eq!((piped, seen), ((id, "value".to_owned()), Value::BulkString(b"value".to_vec())));
    assert_eq!(ask::<u64>(&mut lease, "CLIENT ID").await, id);
    assert_eq!((endpoint(&pool, "test").acquired, connections(&server)), (1, 2));
    assert_eq!(server.admin().text(&["EXISTS", "key"]), "0", "in its own database");
}

/// The answer, once it is seen that the command was sent over this connection.
async fn until_read_by(
    server: &TestServer,
    id: u64,
    lease: &mut GuardedConnection,
    line: &str,
) -> Value {
    let value = ask(lease, line).await;
    assert_eq!(field(server, id, "cmd").as_deref(), Some("get"));
    value
}

#[tokio::test]
async fn a_command_that_blocks_has_one_for_as_long_as_it_blocks() {
    let (server, pool) = pair();
    server.admin().text(&["XGROUP", "CREATE", "stream", "group", "$", "MKSTREAM"]);
    let mut lease = lease(&pool, "jobs").await;
    for (at, line) in (1..).zip(BLOCKING) {
        let told = soon(line, send(&mut lease, line)).await;

        assert_eq!(told.is_ok(), !line.starts_with("WAITAOF"), "{line}: {told:?}");
        assert!(!lease.is_exclusive(), "{line}");
        assert_eq!(leases(&pool, "jobs"), (1, 0), "{line}");
        assert_eq!(endpoint(&pool, "jobs").acquired, at, "{line}");
        let _: String = ask(&mut lease, "PING").await;
    }
    assert_eq!(connections(&server), 2, "the same one for all, and the lane");
}

#[tokio::test]
async fn while_it_blocks_it_is_one_lease_with_one_connection_and_holds_up_nobody() {
    let (server, pool) = pair();
    let mut neighbour = lease(&pool, "jobs").await;
    let mut worker = lease(&pool, "jobs").await;
    let mut popped = Box::pin(send(&mut worker, "BLPOP queue 0"));
    assert!(poll_once(&mut popped).is_pending());
    until("it blocks", &pool, || {
        let _ = poll_once(&mut popped);
        server.admin().info_u64("blocked_clients") == 1
    })
    .await;

    assert_eq!(leases(&pool, "jobs"), (2, 1), "two leases, one of them with a connection");
    let _: String = ask(&mut neighbour, "PING").await;
    server.admin().text(&["RPUSH", "queue", "job"]);

    let told = soon("the job", popped).await.unwrap();
    assert_eq!(told, Value::Array(["queue", "job"].map(|s| Value::BulkString(s.into())).into()));
    assert_eq!((leases(&pool, "jobs"), worker.is_exclusive()), ((2, 0), false));
}

#[tokio::test]
async fn a_lease_whose_blocking_command_is_given_up_goes_on_over_the_lanes() {
    let (server, pool) = pair_with(|builder| builder.endpoint("jobs", Budget::max(1)));
    let mut lease = lease(&pool, "jobs").await;
    for _ in 0..5 {
        let mut popped = Box::pin(send(&mut lease, "BLPOP queue 0"));
        until("it blocks", &pool, || {
            assert!(poll_once(&mut popped).is_pending());
            server.admin().info_u64("blocked_clients") == 1
        })
        .await;

        drop(popped);

        assert_eq!(ask::<String>(&mut lease, "PING").await, "PONG");
        until("the place free", &pool, || leases(&pool, "jobs") == (1, 0)).await;
        until("unblocked", &pool, || server.admin().info_u64("blocked_clients") == 0).await;
    }
    server.admin().text(&["RPUSH", "queue", "job"]);
    assert_eq!(ask::<usize>(&mut lease, "LLEN queue").await, 1, "nobody took it");
}

#[tokio::test]
async fn what_does_not_block_needs_no_connection_whatever_it_is_called() {
    let (_server, pool) = pair();
    let mut lease = lease(&pool, "jobs").await;
    for line in ["XREAD STREAMS block 0", "LPOP list", "GET client", "PUBLISH channel text"] {
        let _: Value = ask(&mut lease, line).await;
    }
    assert!(!lease.is_exclusive());
    assert_eq!(endpoint(&pool, "jobs").acquired, 0);
}

/// The strictest of its commands decides.
#[tokio::test]
async fn a_pipeline_takes_what_its_commands_need() {
    let (_server, pool) = pair();
    let piped = |lines: &[&str], atomic: bool| {
        let mut pipeline = Pipeline::new();
        lines.iter().for_each(|line| _ = pipeline.add_command(crate::cmd(line)));
        if atomic {
            pipeline.atomic();
        }
        pipeline
    };
    for (lines, atomic, acquired, keeps) in [
        (&["SET key 1", "GET key"][..], false, 0, false),
        (&["SET key 1", "BLPOP list 0.01"], false, 1, false),
        (&["SET key 1", "BLPOP list 0.01"], true, 1, false),
        (&["GET key", "CLIENT ID"], false, 1, true),
        (&["BLPOP list 0.01", "SELECT 1"], false, 1, true),
        (&["CLIENT SETNAME other"], true, 1, true),
    ] {
        let mut lease = lease(&pool, "test").await;
        let before = endpoint(&pool, "test").acquired;

        let pipeline = piped(lines, atomic);
        let told = soon("it", pipeline.query_async::<Value>(&mut lease)).await;

        assert!(told.is_ok(), "{lines:?}: {told:?}");
        assert_eq!(endpoint(&pool, "test").acquired - before, acquired, "{lines:?}");
        assert_eq!(lease.is_exclusive(), keeps, "{lines:?}");
    }
}

#[tokio::test]
async fn make_exclusive_takes_one_for_those_who_know_better() {
    let (server, pool) = pair();
    let mut lease = lease(&pool, "test").await;
    let lane = lane_id(&server);
    let () = ask(&mut lease, "SET key value").await;

    for _ in 0..2 {
        lease.make_exclusive().await.unwrap();
        assert!(lease.is_exclusive());
        assert_eq!((leases(&pool, "test"), endpoint(&pool, "test").acquired), ((1, 1), 1));
    }

    let own = ids(&server).into_iter().find(|id| *id != lane).unwrap();
    let value = until_read_by(&server, own, &mut lease, "GET key").await;
    assert_eq!(value, Value::BulkString(b"value".to_vec()));
    drop(lease);
    at_rest(&pool, &server).await;
    assert_eq!(calls(&server, "reset"), 0, "there was nothing to clean");
}
