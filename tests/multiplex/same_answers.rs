//! The property: a lease that shares while it can and one with a connection of its own from the start give the
//! same answers, whatever their callers do.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use redis_guard::redis::Value;
use redis_guard::{GuardedConnection, GuardedPool};

use crate::steps::{KEYS, Step, line, step, told};
use crate::support::{Auth, Resp, TestServer, Transport};
use crate::waiting::{cmd, poll_once, soon};
use crate::{ask, at_rest, builder, lease};

/// What changes the connection, or tells of it, sent alone. `K` is a key.
const ALONE: [&str; 13] = [
    "WATCH K",
    "WATCH K",
    "UNWATCH",
    "MULTI",
    "MULTI",
    "EXEC",
    "EXEC",
    "DISCARD",
    "SELECT 1",
    "SELECT 0",
    "CLIENT SETNAME mine",
    "CLIENT GETNAME",
    "RESET",
];

/// One thing that the caller does, or somebody else.
#[derive(Clone, Debug)]
enum Act {
    Step(Step),
    /// Gives up on the reply before the command is sent, or once it is.
    GiveUp {
        line: String,
        sent: bool,
    },
    /// A command that blocks, and with it the lease, which may have lost its connection.
    GiveUpBlocking,
    MakeExclusive,
    NewLease,
    SomebodyElse(String),
}

fn alone() -> impl Strategy<Value = String> {
    let line = (select(&ALONE[..]), select(&KEYS[..]));
    line.prop_map(|(line, key)| line.replace(" K", &format!(" {key}")))
}

fn act() -> impl Strategy<Value = Act> {
    let does_not_block = line().prop_filter("it blocks", |line| !line.starts_with("BL"));
    let given_up = prop_oneof![2 => does_not_block, 1 => alone()];
    prop_oneof![
        10 => step().prop_map(Act::Step),
        6 => alone().prop_map(|line| Act::Step(Step::Command(line))),
        4 => (given_up, any::<bool>()).prop_map(|(line, sent)| Act::GiveUp { line, sent }),
        1 => Just(Act::GiveUpBlocking),
        1 => Just(Act::MakeExclusive),
        2 => Just(Act::NewLease),
        2 => line().prop_map(Act::SomebodyElse),
    ]
}

struct Side {
    server: TestServer,
    pool: GuardedPool,
}

impl Side {
    fn new(resp: Resp, multiplex: bool) -> Self {
        let server = TestServer::start().unwrap();
        let url = server.url_with(Transport::Tcp, resp, Auth::None, 0);
        Self { pool: builder(&url).multiplex(multiplex).build().unwrap(), server }
    }

    /// What the caller is told, if anything.
    async fn act(&self, lease: &mut GuardedConnection, act: &Act) -> String {
        let mut before = String::new();
        if matches!(act, Act::GiveUpBlocking | Act::NewLease | Act::SomebodyElse(_)) {
            // What comes over another connection now would race with what was given up.
            before = told(lease, &Step::Command("PING".to_owned())).await;
        }
        match act {
            Act::Step(step) => return soon("a step", told(lease, step)).await,
            Act::GiveUp { line, sent } => give_up(lease, line, *sent).await,
            Act::GiveUpBlocking => {
                give_up(lease, "BLPOP nothing 0.002", true).await;
                *lease = self.lease().await;
            }
            Act::MakeExclusive => lease.make_exclusive().await.unwrap(),
            Act::NewLease => *lease = self.lease().await,
            Act::SomebodyElse(line) => {
                let words: Vec<&str> = line.split(' ').collect();
                let _ = self.server.admin().command(&words).unwrap();
            }
        }
        before
    }

    async fn lease(&self) -> GuardedConnection {
        lease(&self.pool, "test").await
    }
}

/// Polls once, and if it is to be sent lets the driver do so.
async fn give_up(lease: &mut GuardedConnection, line: &str, sent: bool) {
    let cmd = cmd(line);
    let mut reply = Box::pin(cmd.query_async::<Value>(lease));
    let _ = poll_once(&mut reply);
    if sent {
        // The driver's task is in front.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }
}

/// Whether it is answered at random: a connection that it would have to take first might be there at once or
/// not, and only then it is sent.
fn is_left_out(lease: &GuardedConnection, act: &Act) -> bool {
    let Act::GiveUp { line, .. } = act else { return false };
    !lease.is_exclusive()
        && ALONE.iter().any(|alone| alone.split(' ').next() == line.split(' ').next())
}

/// Without this the property would say nothing of commands that were given up.
#[tokio::test]
async fn what_is_given_up_once_it_is_sent_runs_and_what_is_given_up_before_does_not() {
    for multiplex in [true, false] {
        let side = Side::new(Resp::Resp2, multiplex);
        let mut lease = side.lease().await;
        for (sent, count) in [(true, 1), (false, 1), (true, 2)] {
            give_up(&mut lease, "INCR n", sent).await;
            assert_eq!(ask::<i64>(&mut lease, "GET n").await, count, "{multiplex}");
        }
    }
}

fn the_same_answers(resp: Resp) {
    // One thread, on which what is polled once is sent, or is not, for sure.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (multiplexing, exclusive) = (Side::new(resp, true), Side::new(resp, false));
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };

    let ran = TestRunner::new(config).run(&vec(act(), 1..40), |acts| {
        runtime.block_on(async {
            for side in [&multiplexing, &exclusive] {
                side.server.admin().text(&["FLUSHALL"]);
            }
            let mut leases = (multiplexing.lease().await, exclusive.lease().await);
            for act in &acts {
                if is_left_out(&leases.0, act) {
                    continue;
                }
                let told = multiplexing.act(&mut leases.0, act).await;
                let expected = exclusive.act(&mut leases.1, act).await;
                prop_assert_eq!(told, expected, "{:?}", act);
            }
            drop(leases);
            at_rest(&multiplexing.pool, &multiplexing.server).await;
            at_rest(&exclusive.pool, &exclusive.server).await;
            Ok(())
        })
    });

    ran.unwrap_or_else(|error| panic!("{error}"));
    let _guard = runtime.enter();
    drop((multiplexing, exclusive));
}

#[test]
fn multiplexing_and_exclusive_leases_give_the_same_answers_in_resp2() {
    the_same_answers(Resp::Resp2);
}

#[test]
fn multiplexing_and_exclusive_leases_give_the_same_answers_in_resp3() {
    the_same_answers(Resp::Resp3);
}
