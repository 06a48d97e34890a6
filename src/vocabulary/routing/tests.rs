//! The table beside what real servers say, and what is made of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use redis::{Cmd, Connection, RedisResult, Value, cmd};

use super::table::{Rule, rule};
use super::{Combine, Route, SeveralSlots, Split, arguments, route, slot, slot_of_all};

/// A node of a cluster of its own, without slots.
struct Node {
    process: Child,
    folder: tempfile::TempDir,
}

impl Node {
    fn start() -> Self {
        loop {
            let folder = tempfile::tempdir().unwrap();
            let (port, bus) = (free_port(), free_port());
            let process = Command::new("redis-server")
                .args(["--port", &port.to_string(), "--cluster-port", &bus.to_string()])
                .args(["--cluster-enabled", "yes", "--save", "", "--bind", "127.0.0.1"])
                .args(["--unixsocket", "redis.sock"])
                .current_dir(folder.path())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let mut node = Self { process, folder };
            // Ends where somebody else took the port first.
            while node.process.try_wait().unwrap().is_none() {
                if let Ok(mut connection) = node.connect() {
                    cmd("PING").exec(&mut connection).unwrap();
                    return node;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    fn connect(&self) -> RedisResult<Connection> {
        let socket = self.folder.path().join("redis.sock");
        redis::Client::open(format!("unix://{}", socket.display()))?.get_connection()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn command(line: &str) -> Cmd {
    let mut command = Cmd::new();
    command.arg(line.split(' ').map(|word| word.trim_matches('\'')).collect::<Vec<_>>());
    command
}

/// The keys that the table finds.
fn keys(cmd: &Cmd) -> Vec<String> {
    let args = arguments(cmd);
    match rule(args.clone()) {
        Rule::Keys(keys) | Rule::Split(keys, _) => {
            keys.of(args).map(|key| String::from_utf8_lossy(key).into_owned()).collect()
        }
        _ => Vec::new(),
    }
}

/// Every command of the server that has no subcommands, and every subcommand: its words and arity.
fn commands(server: &mut Connection) -> Vec<(String, i64)> {
    fn add(command: &Value, all: &mut Vec<(String, i64)>) {
        let Value::Array(fields) = command else { panic!("{command:?}") };
        let (name, arity): (String, i64) = (
            redis::from_redis_value_ref(&fields[0]).unwrap(),
            redis::from_redis_value_ref(&fields[1]).unwrap(),
        );
        match &fields[9] {
            Value::Array(subcommands) if !subcommands.is_empty() => {
                subcommands.iter().for_each(|subcommand| add(subcommand, all));
            }
            _ => all.push((name.replace('|', " "), arity)),
        }
    }
    let mut all = Vec::new();
    let reply: Vec<Value> = cmd("COMMAND").query(server).unwrap();
    reply.iter().for_each(|command| add(command, &mut all));
    all
}

/// Lines whose keys move with their words, by command.
const MOVABLE: &[&str] = &[
    "BLMPOP 0 2 a b LEFT COUNT 7",
    "BZMPOP 0 1 a MIN",
    "EVAL script 2 a b c",
    "EVAL script 0 a",
    "EVALSHA sha 1 a b",
    "EVALSHA_RO sha 3 a b c",
    "EVAL_RO script 1 a",
    "FCALL name 2 a b",
    "FCALL_RO name 1 a b",
    "GEORADIUS a 0 0 1 m STORE b",
    "GEORADIUS a 0 0 1 m COUNT 1 StoreDist c",
    "GEORADIUSBYMEMBER a store 1 m STOREDIST store",
    "GEORADIUSBYMEMBER a store 1 m",
    "LMPOP 2 a b LEFT",
    "MIGRATE host 1 a 0 1",
    "MIGRATE host 1 '' 0 1 COPY REPLACE KEYS a b c",
    "MIGRATE host 1 '' 0 1 AUTH keys keys a b",
    "MIGRATE host 1 '' 0 1 AUTH2 keys keys KEYS a",
    "SINTERCARD 2 a b LIMIT 1",
    "SORT a BY store LIMIT 0 1 GET store STORE b",
    "SORT a STORE b store c",
    "SORT a",
    "SORT_RO a BY w GET store",
    "XREAD STREAMS a 0",
    "XREAD COUNT 1 BLOCK 0 streams a b streams 0 0 0",
    "XREADGROUP GROUP streams streams COUNT 1 NOACK STREAMS a b > >",
    "ZDIFF 2 a b WITHSCORES",
    "ZDIFFSTORE d 2 a b",
    "ZINTER 2 a b WEIGHTS 1 2",
    "ZINTERCARD 2 a b",
    "ZINTERSTORE d 1 a AGGREGATE MAX",
    "ZMPOP 2 a b MIN",
    "ZUNION 2 a b",
    "ZUNIONSTORE d 2 a b WEIGHTS 1 2",
];

#[test]
fn the_keys_of_every_command_of_the_server_are_found() {
    let node = Node::start();
    let mut server = node.connect().unwrap();
    let commands = commands(&mut server);
    let plain = commands.iter().flat_map(|(name, arity)| {
        let words = name.split(' ').count();
        let least = usize::try_from(arity.abs()).unwrap() - words;
        let most = if *arity < 0 { least + 5 } else { least };
        (least..=most)
            .map(move |many| (1..=many).fold(name.clone(), |line, at| format!("{line} arg{at}")))
    });
    // The server does not say the keys of a command that takes no arguments.
    let unheard = commands.iter().filter(|(_, arity)| *arity != 1).map(|(name, _)| &**name);
    let mut unheard: BTreeSet<&str> = unheard.collect();
    let mut wrong = BTreeMap::new();
    for line in plain.chain(MOVABLE.iter().map(|line| (*line).to_owned())) {
        let command = command(&line);
        let mut ask = cmd("COMMAND");
        ask.arg("GETKEYS").arg(arguments(&command).collect::<Vec<_>>());
        let mut theirs: Vec<String> = match ask.query(&mut server) {
            Ok(keys) => keys,
            Err(error) if error.to_string().contains("no key arguments") => Vec::new(),
            Err(_) if !MOVABLE.contains(&&*line) => continue,
            Err(error) => panic!("{line}: {error}"),
        };
        let name = line.to_ascii_lowercase();
        unheard.retain(|known| name != **known && !name.starts_with(&format!("{known} ")));
        // A channel has a slot, but is no key.
        let channels = ["spublish", "ssubscribe", "sunsubscribe"];
        if channels.contains(&name.split(' ').next().unwrap()) {
            continue;
        }
        let mut ours = keys(&command);
        ours.sort_unstable();
        theirs.sort_unstable();
        if ours != theirs {
            wrong.insert(line, (ours, theirs));
        }
    }
    assert!(wrong.is_empty(), "ours, theirs: {wrong:#?}");
    assert!(unheard.is_empty(), "no line has been compared for {unheard:?}");
}

/// Keys that nobody would use but somebody does: braces in all places, and bytes that are no text.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b'{'), Just(b'}'), b'a'..=b'c', any::<u8>()];
    vec(byte, 0..12)
}

#[test]
fn slots_are_those_of_the_server() {
    let node = Node::start();
    let server = std::cell::RefCell::new(node.connect().unwrap());
    let whole = |key: &str| slot(key.as_bytes());
    assert_eq!((whole("foo"), whole("{foo}bar"), whole("a{foo}b{c}")), (12_182, 12_182, 12_182));
    assert_eq!((whole(""), whole("{}foo"), whole("{")), (0, 9_500, 4_092));
    let asked = |keys: Vec<Vec<u8>>| {
        let mut pipeline = redis::pipe();
        for key in &keys {
            pipeline.cmd("CLUSTER").arg("KEYSLOT").arg(key);
        }
        let theirs: Vec<u16> = pipeline.query(&mut *server.borrow_mut()).unwrap();
        prop_assert_eq!(keys.iter().map(|key| slot(key)).collect::<Vec<_>>(), theirs);
        Ok(())
    };
    TestRunner::deterministic().run(&vec(key(), 1..40), asked).unwrap();
}

#[test]
fn commands_that_the_server_here_may_not_know_are_in_the_table_too() {
    for (line, expected) in [
        ("MSETEX 2 a 1 b 2 EX 7", "a b"),
        ("XREADGROUP GROUP g c CLAIM 5 STREAMS a > ", "a"),
        ("DELEX a IFEQ b", "a"),
        ("JSON.MGET a b $.c", "a b"),
        ("JSON.MSET a $ 1 b $ 2", "a b"),
        ("JSON.DEBUG MEMORY a $", "a"),
        ("TS.MADD a 1 2 b 1 2", "a b"),
        ("TS.MRANGE - + FILTER a=b", ""),
        ("CMS.MERGE d 2 a b WEIGHTS 1 2", "a b d"),
        ("FT.CURSOR READ a 7", "a"),
        ("a.name.longer.than.all.others a b", "a"),
        // Malformed, so that the server says so.
        ("ZUNION many a b", ""),
        ("ZUNION 18446744073709551615 a b", "a b"),
        ("MSETEX 18446744073709551615 a 1 b", "a b"),
        ("XREAD", ""),
        ("BLPOP", ""),
        ("MIGRATE host 1 '' 0 1", ""),
        ("SORT a STORE", "a"),
    ] {
        assert_eq!(keys(&command(line)).join(" "), expected, "{line}");
    }
    assert!(matches!(route(&Cmd::new()), Route::Any));
}

#[test]
fn commands_go_where_they_make_sense() {
    // Slots: a 15495, b 3300, c 7365.
    for (line, expected) in [
        ("GET a", "Slot(15495)"),
        ("get {a}b", "Slot(15495)"),
        ("GET", "Any"),
        ("RENAME a b", "CrossSlot"),
        ("RENAME a b{a}", "Slot(15495)"),
        ("MSETNX a 1 b 2", "CrossSlot"),
        ("WATCH a b", "CrossSlot"),
        ("ZUNIONSTORE a 2 {a}1 {a}2", "Slot(15495)"),
        ("ZUNIONSTORE b 2 {a}1 {a}2", "CrossSlot"),
        ("XREAD STREAMS a b 0 0", "CrossSlot"),
        ("EVAL script 2 a b", "CrossSlot"),
        ("EVAL script 0 a b", "Any"),
        ("MGET a {a}", "Slot(15495)"),
        ("MSET a 1 b", "Slot(15495)"),
        ("DEL", "Any"),
        ("SPUBLISH a b", "Slot(15495)"),
        ("PUBLISH a b", "Any"),
        ("CLUSTER COUNTKEYSINSLOT 7", "Slot(7)"),
        ("CLUSTER GETKEYSINSLOT 16384 1", "Any"),
        ("CLUSTER INFO", "Any"),
        ("OBJECT HELP", "Any"),
        ("object encoding a", "Slot(15495)"),
        ("ping", "Any"),
        ("DBSIZE", "Primaries(Sum)"),
        ("FlushAll ASYNC", "Primaries(First)"),
        ("KEYS *", "Primaries(Concat)"),
        ("RANDOMKEY", "Primaries(FirstNotNil)"),
        ("WAIT 1 0", "Primaries(Least)"),
        ("function load REPLACE code", "Primaries(First)"),
        ("SCRIPT LOAD code", "Nodes(First)"),
        ("SCRIPT EXISTS sha", "Nodes(Least)"),
        ("SCRIPT KILL", "Nodes(FirstSuccess)"),
        ("CONFIG SET maxmemory 0", "Nodes(First)"),
        ("CONFIG GET maxmemory", "Any"),
        ("SLOWLOG GET", "Nodes(Concat)"),
        ("PUBSUB CHANNELS", "Nodes(Union)"),
        ("PUBSUB NUMSUB a", "Nodes(Sum)"),
    ] {
        assert_eq!(format!("{:?}", route(&command(line))), expected, "{line}");
    }
    for line in ["SCAN 0", "CLUSTER RESET", "SHUTDOWN"] {
        assert!(matches!(route(&command(line)), Route::Refused(_)), "{line}");
    }
}

/// What a server with nothing but `held` answers.
fn answer(held: &mut HashMap<Vec<u8>, Vec<u8>>, cmd: &Cmd) -> Value {
    let args: Vec<&[u8]> = arguments(cmd).collect();
    match args[0] {
        b"MGET" => {
            let values = args[1..].iter().map(|key| held.get(*key));
            Value::Array(
                values
                    .map(|value| value.map_or(Value::Nil, |v| Value::BulkString(v.clone())))
                    .collect(),
            )
        }
        b"MSET" => {
            held.extend(args[1..].chunks(2).map(|pair| (pair[0].to_vec(), pair[1].to_vec())));
            Value::Okay
        }
        _ => Value::Int(args[1..].iter().map(|key| i64::from(held.remove(*key).is_some())).sum()),
    }
}

proptest! {
    /// Done slot by slot, a command does and says what it does in one piece.
    #[test]
    fn the_parts_of_a_command_come_to_the_command(
        name in prop_oneof![Just("MGET"), Just("MSET"), Just("DEL")],
        pairs in vec((key(), vec(any::<u8>(), 0..3)), 1..40),
        held in proptest::collection::hash_map(key(), vec(any::<u8>(), 0..3), 0..20),
        known in any::<prop::sample::Index>(),
    ) {
        let mut whole = cmd(name);
        for (key, value) in &pairs {
            whole.arg(key);
            if name == "MSET" {
                whole.arg(value);
            }
        }
        let (mut at_once, mut by_slot) = (held.clone(), held);
        by_slot.insert(known.get(&pairs).0.clone(), Vec::new());
        at_once.clone_from(&by_slot);
        let reply = answer(&mut at_once, &whole);
        match route(&whole) {
            Route::Slot(only) => prop_assert!(pairs.iter().all(|(key, _)| slot(key) == only)),
            Route::Split(Split { parts, combine }) => {
                let slots: BTreeSet<u16> = pairs.iter().map(|(key, _)| slot(key)).collect();
                prop_assert_eq!(slots.len(), parts.len());
                for part in &parts {
                    let Route::Slot(slot) = route(&part.cmd) else { panic!("{part:?}") };
                    prop_assert!(slot == part.slot && slots.contains(&slot));
                }
                let replies = parts.iter().map(|part| answer(&mut by_slot, &part.cmd)).collect();
                prop_assert_eq!(combine.combine(replies).unwrap(), reply);
                prop_assert_eq!(by_slot, at_once);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_belongs_to_all_keys_goes_with_every_part() {
    let Route::Split(Split { parts, combine }) = route(&command("JSON.MGET a b {a}2 $.c")) else {
        panic!("not split");
    };
    let lines: Vec<String> = parts
        .iter()
        .map(|part| arguments(&part.cmd).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(lines, ["JSON.MGET a {a}2 $.c", "JSON.MGET b $.c"]);
    assert_eq!(combine, Combine::InOrder(vec![0, 1, 0]));
}

#[test]
fn of_a_kill_one_nodes_success_is_enough_and_of_all_else_that_every_node_is_asked_none_is() {
    for (line, is_enough) in [
        ("SCRIPT KILL", true),
        ("FUNCTION KILL", true),
        ("SCRIPT FLUSH", false),
        ("FLUSHALL", false),
    ] {
        let (Route::Nodes(combine) | Route::Primaries(combine)) = route(&command(line)) else {
            panic!("{line} goes to several")
        };
        assert_eq!(combine.one_is_enough(), is_enough, "{line}");
    }
}

#[test]
fn replies_are_combined() {
    let int = Value::Int;
    let name = |name: &str| Value::BulkString(name.into());
    let array = |values: &[&Value]| Value::Array(values.iter().copied().cloned().collect());
    let (a, b) = (name("a"), name("b"));
    for (combine, replies, expected) in [
        (Combine::First, vec![Value::Okay, Value::Okay], Some(Value::Okay)),
        (Combine::First, vec![], None),
        (Combine::FirstNotNil, vec![Value::Nil, a.clone(), b.clone()], Some(a.clone())),
        (Combine::FirstNotNil, vec![Value::Nil], Some(Value::Nil)),
        (Combine::Sum, vec![int(2), int(3)], Some(int(5))),
        (Combine::Sum, vec![int(2), Value::Nil], None),
        (
            Combine::Sum,
            vec![array(&[&a, &int(1), &b, &int(0)]); 2],
            Some(array(&[&a, &int(2), &b, &int(0)])),
        ),
        (Combine::Sum, vec![array(&[&a, &int(1)]), array(&[&b, &int(1)])], None),
        (
            Combine::Least,
            vec![array(&[&int(1), &int(0)]), array(&[&int(0), &int(1)])],
            Some(array(&[&int(0), &int(0)])),
        ),
        (Combine::Least, vec![array(&[&int(1)]), array(&[])], None),
        (
            Combine::Concat,
            vec![array(&[&a]), Value::Set(vec![a.clone(), b.clone()])],
            Some(array(&[&a, &a, &b])),
        ),
        (Combine::Union, vec![array(&[&a]), array(&[&b, &a])], Some(array(&[&a, &b]))),
        (Combine::Concat, vec![array(&[]), Value::Nil], None),
        (Combine::InOrder(vec![0, 1]), vec![array(&[&a]), array(&[])], None),
        (Combine::InOrder(vec![0, 1]), vec![array(&[&a])], None),
    ] {
        let case = format!("{combine:?} {replies:?}");
        assert_eq!(combine.combine(replies).ok(), expected, "{case}");
    }
}

#[test]
fn a_pipeline_has_one_slot_or_is_refused() {
    let of = |lines: &[&str]| {
        let cmds: Vec<Cmd> = lines.iter().map(|line| command(line)).collect();
        slot_of_all(&cmds)
    };
    assert_eq!(of(&["PING", "DBSIZE", "SCAN 0"]), Ok(None));
    assert_eq!(of(&["PING", "GET a", "SET {a}b 1", "MGET a a{a}"]), Ok(Some(15_495)));
    assert_eq!(of(&["GET a", "GET b"]), Err(SeveralSlots));
    assert_eq!(of(&["MGET a b"]), Err(SeveralSlots));
    assert_eq!(of(&["CLUSTER COUNTKEYSINSLOT 7", "GET a"]), Err(SeveralSlots));
}

#[test]
fn to_route_a_command_of_one_slot_allocates_nothing() {
    let cmds = ["GET key", "SET key value", "MGET {a}1 {a}2", "RENAME a b", "EVAL s 1 a"];
    let cmds: Vec<Cmd> = cmds.iter().map(|line| command(line)).collect();
    let counted = allocation_counter::measure(|| {
        for cmd in &cmds {
            drop(std::hint::black_box(route(cmd)));
        }
    });
    assert_eq!(counted.count_total, 0);
}
