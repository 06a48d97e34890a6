//! A connection that handles send on is nobody's lease, whatever becomes of the runtime on which
//! somebody first wanted it.

use std::time::Duration;

use redis_guard::redis::Value;
use redis_guard::{LimitedBy, SharedConnection};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::TestServer;
use crate::waiting::{HANG, cmd, field, id, soon, until};
use crate::{ask, builder, hold_writes, in_flight, lane_id, lanes, pair_with, send, until_read};

/// Far above a round trip, and far below the response timeout.
const AT_MOST: Duration = Duration::from_secs(5);

/// Its tasks run also while nobody blocks on it.
fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// The first command may go over a lane that came up meanwhile, for this once.
fn stay_with_a_lane(runtime: &Runtime, handle: &mut SharedConnection) {
    for _ in 0..2 {
        let _: String = runtime.block_on(ask(handle, "PING"));
    }
}

#[test]
fn a_lane_whose_first_callers_runtime_ends_is_in_nobody_elses_transaction() {
    // The watch would take the idle connection for a moment.
    let (_server, pool) = pair_with(|builder| builder.watch(false));
    let (lasting, short) = (runtime(), runtime());
    lasting.block_on(pool.warm_up(1)).unwrap();
    let mut handle = pool.shared("search");
    stay_with_a_lane(&short, &mut handle);

    drop(short);

    lasting.block_on(async {
        let mut lease = soon("a lease", pool.acquire("cart")).await.unwrap();
        let _: String = cmd("MULTI").query_async(&mut lease).await.unwrap();
        let _: String = cmd("SET mine 1").query_async(&mut lease).await.unwrap();
        let answer: Value = ask(&mut handle, "GET theirs").await;
        let executed: Vec<Value> = cmd("EXEC").query_async(&mut lease).await.unwrap();
        assert_eq!((answer, executed), (Value::Nil, vec![Value::Okay]));
    });
}

#[test]
fn a_lane_whose_first_callers_runtime_ends_is_no_lease_while_handles_use_it() {
    // The watch would take the idle connection for a moment.
    let (_server, pool) = pair_with(|builder| builder.watch(false));
    let (lasting, short) = (runtime(), runtime());
    lasting.block_on(pool.warm_up(2)).unwrap();
    let mut handle = pool.shared("search");
    stay_with_a_lane(&short, &mut handle);

    drop(short);

    lasting.block_on(async {
        let mut leases = [pool.acquire("cart").await.unwrap(), pool.acquire("cart").await.unwrap()];
        let lane = lane_id(&mut handle).await;
        for lease in &mut leases {
            assert_ne!(id(lease).await, lane, "leased, and shared");
        }
    });
}

/// The limit is frozen, so that a lane at the end of its lifetime is kept like every connection.
#[test]
fn a_lane_whose_drain_is_cut_short_is_no_lease_while_its_commands_are_on_their_way() {
    let server = TestServer::builder().maxclients(40).start().unwrap();
    let lifetime = Duration::from_millis(300);
    let pool = builder(&server.url()).watch(false).acquire_timeout(HANG).max_lifetime(lifetime);
    let pool = pool.leak_after(Duration::from_millis(40)).response_timeout(HANG).build().unwrap();
    let (lasting, short) = (runtime(), runtime());
    lasting.block_on(pool.warm_up(1)).unwrap();
    let mut handle = pool.shared("search");
    let old = short.block_on(lane_id(&mut handle));
    hold_writes(&server);
    let mut clone = handle.clone();
    // On the runtime that stays, so that the command does.
    let command = lasting.spawn(async move { send(&mut clone, "SET k v").await });
    lasting.block_on(async {
        until_read(&server, &pool, old, "set").await;
        until("the replacement", &pool, || lanes(&pool)[0].connections == 2).await;
        let mut held = Vec::new();
        until("no idle connection", &pool, || {
            held.extend(pool.try_acquire("held"));
            pool.status().idle + pool.status().dialing == 0
        })
        .await;
        let _occupants = server.fill();
        // As many as there may be connections: one that comes back is lent at once.
        let mut waiters = JoinSet::new();
        for _ in 0..8 {
            let lease = pool.acquire("cart");
            waiters.spawn(async move {
                // Or else it hears that nothing is live: what was dialed on the runtime that ends is lost.
                let mut lease = lease.await.ok()?;
                // One that was dialed on the runtime that ends is lost with it.
                let _lost = timeout(AT_MOST, cmd("CLIENT ID").query_async::<u64>(&mut lease))
                    .await
                    .expect("a lease should not wait for the reply to somebody else's command");
                Some(lease)
            });
        }
        until("the limit frozen", &pool, || pool.status().limited_by == LimitedBy::Refused).await;
        assert_eq!(in_flight(&pool), 1, "the old lane is still drained");

        short.shutdown_background();

        let mut closed =
            Box::pin(until("the old lane closed", &pool, || field(&server, old, "id").is_none()));
        loop {
            tokio::select! {
                Some(lease) = waiters.join_next() => held.extend(lease.unwrap()),
                () = &mut closed => break,
            }
        }
    });
    command.abort();
}
