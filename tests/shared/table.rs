//! The crate's table of commands, held against the server's own.

use std::collections::{BTreeMap, BTreeSet};

use redis_guard::GuardedPool;
use redis_guard::redis::{self, ErrorKind, RedisError};

use crate::support::server::Reply;
use crate::support::{SEVEN, TestServer, lacks};
use crate::waiting::{soon, until};
use crate::{ask, endpoint, pair, send, sending};

/// Each blocking command, as it blocks for ever.
const BLOCKING: [(&str, &str); 12] = [
    ("blmove", "BLMOVE list other LEFT LEFT 0"),
    ("blmpop", "BLMPOP 0 1 list LEFT"),
    ("blpop", "BLPOP list 0"),
    ("brpop", "BRPOP list 0"),
    ("brpoplpush", "BRPOPLPUSH list other 0"),
    ("bzmpop", "BZMPOP 0 1 zset MIN"),
    ("bzpopmax", "BZPOPMAX zset 0"),
    ("bzpopmin", "BZPOPMIN zset 0"),
    ("wait", "WAIT 1 0"),
    ("waitaof", "WAITAOF 0 1 0"),
    ("xread", "XREAD COUNT 1 BLOCK 0 STREAMS stream $"),
    ("xreadgroup", "XREADGROUP GROUP group consumer BLOCK 0 STREAMS stream >"),
];

/// What may be shared although it is in one of the categories, and why.
const SHARED: [(&str, &str); 36] = [
    ("ping", "changes nothing"),
    ("hello", "without a protocol it only tells"),
    ("unwatch", "nothing is watched on a lane"),
    ("echo", "changes nothing"),
    ("command", "about the server"),
    ("command|count", "about the server"),
    ("command|docs", "about the server"),
    ("command|getkeys", "about the server"),
    ("command|getkeysandflags", "about the server"),
    ("command|help", "about the server"),
    ("command|info", "about the server"),
    ("command|list", "about the server"),
    ("client", "nothing without a subcommand"),
    ("client|help", "about the server"),
    ("client|id", "only reads"),
    ("client|info", "only reads"),
    ("client|getname", "only reads"),
    ("client|getredir", "only reads"),
    ("client|trackinginfo", "only reads"),
    ("client|list", "about all connections"),
    ("client|kill", "about the connections it names"),
    ("client|pause", "about all connections"),
    ("client|unpause", "about all connections"),
    ("client|unblock", "about the connection it names"),
    ("client|setinfo", "the driver's name and version, the same for all"),
    ("publish", "changes nothing on the connection"),
    ("spublish", "changes nothing on the connection"),
    ("pubsub", "nothing without a subcommand"),
    ("pubsub|channels", "only reads"),
    ("pubsub|help", "only reads"),
    ("pubsub|numpat", "only reads"),
    ("pubsub|numsub", "only reads"),
    ("pubsub|shardchannels", "only reads"),
    ("pubsub|shardnumsub", "only reads"),
    ("wait", "gets a connection of its own"),
    ("waitaof", "gets a connection of its own"),
];

/// What no category says: it turns the connection into something else.
const ODD: [&str; 5] = ["monitor", "sync", "psync", "replconf", "script|debug"];

/// Without an argument they end the server or the patience of a test.
const NOT_SENT: [&str; 2] = ["shutdown", "pfselftest"];

fn category(server: &TestServer, name: &str) -> BTreeSet<String> {
    server.admin().text(&["ACL", "CAT", name]).lines().map(str::to_owned).collect()
}

/// Every command and subcommand of the server, with its flags.
fn commands(server: &TestServer) -> BTreeMap<String, BTreeSet<String>> {
    let mut commands = BTreeMap::new();
    note(&server.admin().command(&["COMMAND"]).unwrap(), &mut commands);
    assert!(commands.len() > 200, "{}", commands.len());
    commands
}

fn note(reply: &Reply, commands: &mut BTreeMap<String, BTreeSet<String>>) {
    let Reply::Array(rows) = reply else { panic!("{reply:?}") };
    for row in rows {
        let Reply::Array(fields) = row else { panic!("{row:?}") };
        let Reply::Array(flags) = &fields[2] else { panic!("{row:?}") };
        commands.insert(fields[0].text(), flags.iter().map(Reply::text).collect());
        if let Some(subcommands) = fields.get(9) {
            note(subcommands, commands);
        }
    }
}

fn line(command: &str) -> String {
    command.replace('|', " ")
}

fn is_refusal(error: &redis_guard::Error) -> bool {
    error.to_string().contains("use `acquire`")
}

/// What the server has counted of the command so far: its calls, also those it refused.
fn calls(server: &TestServer, command: &str) -> Option<String> {
    let stats = server.admin().text(&["INFO", "commandstats"]);
    let stats = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:")))?;
    let counts = ["calls", "rejected_calls", "failed_calls"];
    let counted = |field: &&str| counts.iter().any(|count| field.starts_with(&format!("{count}=")));
    Some(stats.split(',').filter(counted).collect())
}

#[tokio::test]
async fn every_blocking_command_of_the_server_is_known() {
    let (server, _) = pair();
    let known: BTreeSet<&str> = BLOCKING.iter().map(|(name, _)| *name).collect();

    let of_category = category(&server, "blocking");
    let commands = commands(&server);
    let flagged = commands.iter().filter(|(_, flags)| flags.contains("blocking"));
    let flagged: BTreeSet<String> = flagged.map(|(name, _)| name.clone()).collect();

    for name in of_category.union(&flagged) {
        assert!(known.contains(name.as_str()), "{name} blocks, and this test does not know it");
    }
    // Redis 7 brought two.
    assert!(of_category.len() >= 8, "{of_category:?}");
}

#[tokio::test]
async fn every_blocking_command_gets_a_connection_of_its_own_while_it_blocks() {
    let (server, pool) = pair();
    server.admin().text(&["XGROUP", "CREATE", "stream", "group", "$", "MKSTREAM"]);
    let mut neighbour = pool.shared("neighbour");
    let commands = commands(&server);

    for (name, line) in BLOCKING {
        if !commands.contains_key(name) {
            continue;
        }
        for line in [line.to_owned(), line.to_ascii_lowercase()] {
            let blocked = tokio::spawn(sending(&pool, "jobs", &line));
            until(&line, &pool, || {
                blocked.is_finished() || server.admin().info_u64("blocked_clients") == 1
            })
            .await;

            assert!(!blocked.is_finished(), "{line}: {:?}", blocked.await);
            assert_eq!(endpoint(&pool, "jobs").in_use, 1, "{line}");
            let _: String = soon(&line, ask(&mut neighbour, "PING")).await;
            blocked.abort();
            until("the connection gone", &pool, || {
                endpoint(&pool, "jobs").in_use == 0
                    && server.admin().info_u64("blocked_clients") == 0
            })
            .await;
        }
    }
}

/// A server that does not know the command says so over a lease, and that is seen too.
#[tokio::test]
async fn blocking_commands_of_newer_servers_get_a_connection_of_their_own() {
    let (_server, pool) = pair();
    for (at, (_, line)) in (1..).zip([("waitaof", "WAITAOF 0 0 1"), ("wait", "WAIT 0 1")]) {
        let _ = soon(line, send(&mut pool.shared("jobs"), line)).await;
        assert_eq!(endpoint(&pool, "jobs").acquired, at, "{line}");
    }
}

#[tokio::test]
async fn every_command_about_the_connection_is_refused_or_known_to_be_harmless() {
    if lacks("categories by subcommand", SEVEN) {
        return;
    }
    let (server, pool) = pair();
    let harmless: BTreeMap<&str, &str> = SHARED.into();
    let mut names: BTreeSet<String> = ODD.map(str::to_owned).into();
    for name in ["connection", "transaction", "pubsub"] {
        names.extend(category(&server, name));
    }
    let _: String = ask(&mut pool.shared("test"), "PING").await;
    let mut refused = 0;
    let documented = documented();

    for name in &names {
        let before = calls(&server, name);
        let told = soon(name, send(&mut pool.shared("test"), &line(name))).await;

        let is_refused = told.as_ref().is_err_and(is_refusal);
        let reason = harmless.get(name.as_str());
        assert_ne!(is_refused, reason.is_some(), "{name}: {reason:?}, but {told:?}");
        if is_refused {
            refused += 1;
            assert!(!told.as_ref().is_err_and(redis_guard::Error::is_rejected), "{told:?}");
            let error = RedisError::from(told.unwrap_err());
            assert_eq!(error.kind(), ErrorKind::Client, "{name}");
            assert_eq!(calls(&server, name), before, "{name} was sent");
            let word = name.rsplit('|').next().unwrap_or(name).to_uppercase();
            assert!(documented.contains(&*word), "the documentation does not say that {name} is");
        }
    }

    assert!(refused >= 25, "{refused} of {names:?}");
}

/// The words in what a handle's documentation says of the commands that it refuses.
fn documented() -> BTreeSet<&'static str> {
    let source = include_str!("../../src/pool/shared_connection.rs");
    let refused = source.split_once("**Commands that change the connection**").unwrap().1;
    let refused = refused.split_once("are fine").unwrap().0;
    let is_part = |letter: char| letter.is_ascii_uppercase() || letter == '-';
    refused.split(|letter| !is_part(letter)).filter(|word| !word.is_empty()).collect()
}

#[tokio::test]
async fn case_does_not_matter_to_a_refusal() {
    let (_server, pool) = pair();
    for line in ["select 1", "SeLeCt 1", "client reply off", "Client Reply OFF", "script debug yes"]
    {
        let told = send(&mut pool.shared("test"), line).await.unwrap_err();
        assert!(is_refusal(&told), "{line}: {told}");
    }
}

/// Sent without arguments most of them are an error of the server's, which is its answer.
#[tokio::test]
async fn every_other_command_goes_over_the_lane() {
    if lacks("categories by subcommand", SEVEN) {
        return;
    }
    let (server, pool) = pair();
    let mut others: BTreeSet<String> = commands(&server).into_keys().collect();
    for name in ["connection", "transaction", "pubsub"] {
        others = &others - &category(&server, name);
    }
    for name in BLOCKING.map(|(name, _)| name).iter().chain(&ODD).chain(&NOT_SENT) {
        let reads = name.starts_with("xread");
        assert!(others.remove(*name) || !reads, "{name}");
    }
    let mut handle = pool.shared("test");

    for name in &others {
        let told = soon(name, send(&mut handle, &line(name))).await;
        assert!(!told.as_ref().is_err_and(is_refusal), "{name}: {told:?}");
    }

    assert_eq!((endpoint(&pool, "test").acquired, pool.status().live), (0, 1));
}

#[tokio::test]
async fn a_refusal_is_told_to_the_drivers_users_with_its_remedy() {
    let (_server, pool) = pair();
    let mut handle = pool.shared("test");

    let error = redis::cmd("SELECT").arg(1).query_async::<()>(&mut handle).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Client);
    assert!(error.to_string().contains("use `acquire`"), "{error}");
    assert_eq!(error.retry_method() as u8, redis::RetryMethod::NoRetry as u8);
    assert!(untouched(&pool), "nothing was dialed for it");
}

fn untouched(pool: &GuardedPool) -> bool {
    pool.status().dials.is_empty() && pool.status().live == 0
}
