//! The engine of the simulator answers as Redis does.

use std::collections::BTreeMap;

use super::script::ServerState;
use super::server::{Reply, TestServer};
use super::{Member, keys, load};
use redis_guard::internal::sim::SCRIPT;

/// Counts the registry's fields that no clock is in.
fn timeless(mut fields: BTreeMap<String, String>) -> BTreeMap<String, String> {
    fields.retain(|name, _| !["born", "audited", "seen"].contains(&name.as_str()));
    fields
}

#[test]
fn the_same_calls_have_the_same_replies_on_a_real_server() {
    let server = TestServer::start().expect("redis-server should start");
    server.admin().set_maxclients(300);
    let sha = server.admin().text(&["SCRIPT", "LOAD", SCRIPT]);
    let script = load();
    let keys = keys();
    let mut rng = fastrand::Rng::with_seed(5);
    for seq in 1..=600 {
        let id = rng.usize(..20);
        let mut args = Member {
            id,
            seq,
            live: rng.usize(..20),
            base: rng.usize(..90),
            peak: rng.usize(..150),
            hungry: rng.bool(),
            max: 100,
        }
        .args();
        match rng.u32(..40) {
            0 => args = vec!["leave".to_owned(), args[1].clone()],
            1 => {
                let write = ["HSET", &keys[2], "outstanding", "rubbish"];
                server.admin().text(&write);
                script.command(&write);
            }
            2 => {
                server.admin().text(&["SET", &keys[1], "x"]);
                script.command(&["SET", &keys[1], "x"]);
            }
            3 => {
                // An old registry: it grants freely.
                server.admin().text(&["HSET", &keys[2], "born", "1"]);
                script.command(&["HSET", &keys[2], "born", "1"]);
            }
            _ => {}
        }
        let time = server.admin().text(&["TIME"]);
        let (seconds, micros) = time.split_once('\n').expect("two numbers");
        let number = |text: &str| text.parse::<u64>().expect("a number");
        let state = ServerState {
            now_ms: number(seconds) * 1000 + number(micros) / 1000,
            connected_clients: server.admin().used_slots(),
            maxclients: Some(300),
        };
        let simulated = script.run(state, &keys, &args).expect("a reply");

        let call = ["EVALSHA", &sha, "3"].into_iter().chain(keys.iter().map(String::as_str));
        let call: Vec<_> = call.chain(args.iter().map(String::as_str)).collect();
        let reply = server.admin().command(&call).expect("a reply");
        let Reply::Array(items) = reply else { panic!("{call:?} was answered with {reply:?}") };
        let real: Vec<i64> = items.iter().map(number_of).collect();
        assert_eq!(real, simulated, "call {seq}: {args:?}");
    }
    for key in [&keys[0], &keys[2]] {
        let text = server.admin().text(&["HGETALL", key]);
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let real = lines.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        assert_eq!(timeless(real), timeless(script.hash(key)));
    }
}

fn number_of(item: &Reply) -> i64 {
    match item {
        Reply::Int(number) => *number,
        other => panic!("{other:?} is not a number"),
    }
}
