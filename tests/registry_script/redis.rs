//! The engine of the simulator answers as Redis does.

use std::collections::BTreeMap;

use super::script::{Script, ServerState};
use super::server::{Reply, TestServer};
use super::{Member, keys, load};
use redis_guard::internal::sim::SCRIPT;

/// The script on a redis-server of its own.
pub(crate) struct RealScript {
    server: TestServer,
    sha: String,
}

impl RealScript {
    pub(crate) fn start(maxclients: u32) -> Self {
        let server = TestServer::start().expect("redis-server should start");
        server.admin().set_maxclients(maxclients);
        let sha = server.admin().text(&["SCRIPT", "LOAD", SCRIPT]);
        Self { server, sha }
    }

    pub(crate) fn server(&self) -> &TestServer {
        &self.server
    }

    pub(crate) fn run(&self, keys: &[String], args: &[String]) -> Vec<i64> {
        let call = ["EVALSHA", &self.sha, "3"].into_iter().chain(keys.iter().map(String::as_str));
        let call: Vec<_> = call.chain(args.iter().map(String::as_str)).collect();
        match self.server.admin().command(&call) {
            Ok(Reply::Array(items)) => items.iter().map(number_of).collect(),
            other => panic!("{call:?} was answered with {other:?}"),
        }
    }

    /// A hash's fields.
    pub(crate) fn hash(&self, key: &str) -> BTreeMap<String, String> {
        let text = self.server.admin().text(&["HGETALL", key]);
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
    }

    /// What it sees of its server at this moment.
    fn sees(&self, maxclients: u32) -> ServerState {
        let time = self.server.admin().text(&["TIME"]);
        let (seconds, micros) = time.split_once('\n').expect("two numbers");
        let number = |text: &str| text.parse::<u64>().expect("a number");
        ServerState {
            now_ms: number(seconds) * 1000 + number(micros) / 1000,
            connected_clients: self.server.admin().used_slots(),
            maxclients: Some(maxclients.into()),
            ..ServerState::default()
        }
    }
}

fn number_of(item: &Reply) -> i64 {
    match item {
        Reply::Int(number) => *number,
        other => panic!("{other:?} is not a number"),
    }
}

/// The registry's fields without what a clock is in: of the state the sums and the repairs are left.
fn timeless(mut fields: BTreeMap<String, String>) -> BTreeMap<String, String> {
    if let Some(state) = fields.get_mut("state") {
        let numbers: Vec<_> = state.split(' ').collect();
        *state = [&numbers[..4], &numbers[10..]].concat().join(" ");
    }
    fields
}

/// Now and then somebody leaves, or writes into the registry of both.
fn disturb(rng: &mut fastrand::Rng, real: &RealScript, simulated: &Script) -> bool {
    let keys = keys();
    let write: &[&str] = match rng.u32(..40) {
        0 => return true,
        1 => &["HSET", &keys[2], "state", "text"],
        2 => &["SET", &keys[1], "x"],
        // An old registry: it grants freely.
        3 => &["HSET", &keys[2], "state", "0 0 0 0 1 1 0.000 1 1 1 0"],
        _ => return false,
    };
    real.server.admin().text(write);
    simulated.command(write);
    false
}

#[test]
fn the_same_calls_have_the_same_replies_on_a_real_server() {
    const MAXCLIENTS: u32 = 300;
    let (real, simulated) = (RealScript::start(MAXCLIENTS), load());
    let keys = keys();
    let mut rng = fastrand::Rng::with_seed(5);
    for seq in 1..=600 {
        let member = Member {
            id: rng.usize(..20),
            seq,
            live: rng.usize(..20),
            base: rng.usize(..90),
            peak: rng.usize(..150),
            hungry: rng.bool(),
            max: 100,
        };
        let mut args = member.args();
        if disturb(&mut rng, &real, &simulated) {
            args = vec!["leave".to_owned(), args[1].clone()];
        }
        let expected = simulated.run(real.sees(MAXCLIENTS), &keys, &args).expect("a reply");
        let mut replied = real.run(&keys, &args);
        if let (Some(news), Some(expected)) = (replied.get_mut(8), expected.get(8)) {
            assert!((*news - expected).abs() < 1_000, "call {seq}: {news} and {expected}");
            *news = *expected;
        }
        assert_eq!(replied, expected, "call {seq}: {args:?}");
    }
    for key in [&keys[0], &keys[2]] {
        assert_eq!(timeless(real.hash(key)), timeless(simulated.hash(key)));
    }
}
