//! Connections that die: a lane under its leases, and a lease's own.

use std::time::Duration;

use futures_util::future::join_all;
use redis_guard::redis::{RedisError, Value};
use tokio::time::sleep;

use crate::support::dials;
use crate::waiting::{poll_once, soon, until};
use crate::{
    ask, at_rest, builder, closed, connections, hold_writes, kill, lane_id, lanes_up, lease,
    leases, let_writes_go, pair, refused, send, until_read,
};

/// The error of a command whose lane died under it.
fn assert_lost(error: &RedisError) {
    assert!(error.to_string().contains("may or may not have run"), "{error}");
    assert!(error.is_io_error() && !error.is_timeout(), "{error:?}");
}

#[tokio::test]
async fn commands_on_a_lane_that_dies_hear_that_they_may_have_run_and_the_leases_go_on() {
    let (server, pool) = pair();
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(lease(&pool, "test").await);
    }
    let lane = lane_id(&server);
    hold_writes(&server);
    let mut sent: Vec<_> = all.iter_mut().map(|lease| Box::pin(send(lease, "INCR n"))).collect();
    for sent in &mut sent {
        assert!(poll_once(sent).is_pending());
    }
    until_read(&server, &pool, lane, "INCR n").await;

    kill(&server, lane);

    for told in soon("the commands", join_all(sent)).await {
        assert_lost(&told.unwrap_err());
    }
    let_writes_go(&server);
    for (at, lease) in (1..).zip(&mut all) {
        assert_eq!(ask::<i64>(lease, "INCR n").await, at, "none was sent again");
        assert!(!lease.is_exclusive());
    }
    assert_eq!((dials(&pool), connections(&server)), ([("connected", 2)].into(), 1));
    drop(all);
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn a_lease_whose_lane_has_died_goes_on_over_the_next_one() {
    for line in ["PING", "MULTI", "BLPOP list 0.01"] {
        let (server, pool) = pair();
        let mut lease = lease(&pool, "test").await;
        let _: String = ask(&mut lease, "PING").await;
        kill(&server, lane_id(&server));
        until("the close", &pool, || closed(&pool, "peer") == 1).await;

        let told = soon(line, send(&mut lease, line)).await;

        assert!(told.is_ok(), "{line}: {told:?}");
        drop(lease);
        at_rest(&pool, &server).await;
    }
}

#[tokio::test]
async fn a_restart_of_the_server_is_survived() {
    let (server, pool) = pair();
    let (mut sharing, mut own) = (lease(&pool, "test").await, lease(&pool, "test").await);
    own.make_exclusive().await.unwrap();
    let _: String = ask(&mut sharing, "PING").await;

    server.crash();
    until("nothing live", &pool, || pool.status().live == 0).await;
    let told = soon("the refusal", send(&mut sharing, "PING")).await.unwrap_err();
    assert!(told.to_string().contains("no connection is live"), "{told}");
    server.restart().unwrap();

    let asking = async {
        while send(&mut sharing, "PING").await.is_err() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    soon("service", asking).await;
    assert_eq!(ask::<Value>(&mut sharing, "MULTI").await, Value::Okay);
    refused(&mut own, "PING").await;
    drop((sharing, own));
    at_rest(&pool, &server).await;
}

/// The holder's transaction has gone with it, so it is not replaced.
#[tokio::test]
async fn a_lease_whose_own_connection_dies_is_told_as_an_exclusive_one_is() {
    let (server, pool) = pair();
    let plain = builder(&server.url()).client_name("plain").multiplex(false).build().unwrap();
    let (mut own, mut exclusive) = (lease(&pool, "test").await, lease(&plain, "test").await);
    for lease in [&mut own, &mut exclusive] {
        let () = ask(lease, "WATCH key").await;
        let id: u64 = ask(lease, "CLIENT ID").await;
        kill(&server, id);
    }
    until("both are closed", &pool, || closed(&pool, "peer") == 1 && closed(&plain, "peer") == 1)
        .await;

    for line in ["MULTI", "PING", "BLPOP list 0.01"] {
        let told = [refused(&mut own, line).await, refused(&mut exclusive, line).await];
        assert_eq!(told[0].to_string(), told[1].to_string(), "{line}");
        assert_eq!(told[0].kind(), told[1].kind(), "{line}");
    }
    assert!(own.is_exclusive());
    own.make_exclusive().await.unwrap();
    refused(&mut own, "PING").await;

    drop(own);
    assert_eq!(ask::<Value>(&mut lease(&pool, "test").await, "MULTI").await, Value::Okay);
}

#[tokio::test]
async fn a_lease_with_its_own_connection_does_not_notice_that_the_lane_dies() {
    let (server, pool) = pair();
    let mut lease = lease(&pool, "test").await;
    let lane = lane_id(&server);
    // One that nobody uses would not be missed.
    let _: String = ask(&mut lease, "PING").await;
    let () = ask(&mut lease, "MULTI").await;
    let _: String = ask(&mut lease, "SET key value").await;

    kill(&server, lane);
    until("another lane", &pool, || pool.status().lanes[0].connections == 2).await;

    assert_eq!(ask::<Vec<Value>>(&mut lease, "EXEC").await, [Value::Okay]);
    assert_eq!(leases(&pool, "test"), (1, 1));
}

/// The counter shows it: at least the commands that were answered ran, and at most those that were not
/// answered ran besides. Those of a transaction ran all or none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_twice_while_connections_are_killed_all_the_time() {
    let (server, pool) = pair();
    let callers: Vec<_> = (0..12)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let (mut ran, mut unknown) = (0_i64, 0_i64);
                for turn in 0..60 {
                    let Ok(mut lease) = pool.acquire("test").await else { continue };
                    if turn % 3 == 0 {
                        let mut run = async || {
                            send(&mut lease, "MULTI").await.ok()?;
                            for _ in 0..2 {
                                send(&mut lease, "INCR n").await.ok()?;
                            }
                            Some(send(&mut lease, "EXEC").await)
                        };
                        match run().await {
                            Some(Ok(Value::Array(_))) => ran += 2,
                            Some(Err(_)) => unknown += 2,
                            Some(Ok(other)) => panic!("{other:?}"),
                            None => {}
                        }
                    } else {
                        match send(&mut lease, "INCR n").await {
                            Ok(_) => ran += 1,
                            Err(_) => unknown += 1,
                        }
                    }
                }
                (ran, unknown)
            })
        })
        .collect();
    let callers = tokio::spawn(join_all(callers));
    let mut kills = 0;
    while !callers.is_finished() {
        for id in crate::ids(&server) {
            let _ = server.admin().command(&["CLIENT", "KILL", "ID", &id.to_string()]);
            kills += 1;
        }
        sleep(Duration::from_millis(3)).await;
    }
    let (mut ran, mut unknown) = (0, 0);
    for told in callers.await.unwrap() {
        let told = told.unwrap();
        (ran, unknown) = (ran + told.0, unknown + told.1);
    }

    assert!(kills > 0 && ran > 0, "{kills} kills, {ran} ran");
    let count: i64 = server.admin().text(&["GET", "n"]).parse().unwrap();
    assert!((ran..=ran + unknown).contains(&count), "{ran} <= {count} <= {ran} + {unknown}");
    until("a lane, or none", &pool, || lanes_up(&pool) <= 1).await;
    at_rest(&pool, &server).await;
}
