//! Registries of fleets, as the watch shows them.

use std::collections::BTreeMap;
use std::time::Duration;

use redis_guard::{Fleet, GuardedConnection, GuardedPool};
use serde_json::Value;
use tokio::time::sleep;

use crate::program::{Live, json, text};
use crate::support::{Auth, Resp, TestServer, Transport, unhurried};

const FAST: &[&str] = &["--interval", "200ms"];

/// A member of the fleet `test` with so many connections, of which one is not lent, to beat over.
async fn member(server: &TestServer, live: usize) -> (GuardedPool, Vec<GuardedConnection>) {
    let pool = unhurried(server.url())
        .max_connections(30)
        .acquire_timeout(Duration::from_secs(10))
        .fleet(Fleet::named("test"))
        .build()
        .unwrap();
    let mut held = Vec::new();
    for _ in 0..live {
        held.push(pool.acquire("test").await.unwrap());
    }
    held.pop();
    while !pool.status().fleet.is_some_and(|fleet| fleet.joined) {
        sleep(Duration::from_millis(5)).await;
    }
    (pool, held)
}

fn members(server: &Value) -> BTreeMap<String, (u64, u64)> {
    let members = server["fleets"][0]["members"].as_array().cloned().unwrap_or_default();
    let member = |it: &Value| {
        let id = it["id"].as_str().unwrap().to_owned();
        (id, (it["granted"].as_u64().unwrap(), it["live"].as_u64().unwrap()))
    };
    members.iter().map(member).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_shown_with_shares_that_sum_up_until_they_leave() {
    let server = TestServer::builder().maxclients(200).start().unwrap();
    let mut pools = Vec::new();
    for live in [5, 3, 1] {
        pools.push(member(&server, live).await);
    }
    let url = server.url();
    tokio::task::spawn_blocking({
        let url = url.clone();
        move || {
            let live = Live::json(&[&[url.as_str()], FAST].concat());
            let it = live.until("all three, with what they hold", |it| {
                let live: Vec<_> = members(it).values().map(|(_, live)| *live).collect();
                live.len() == 3 && live.iter().sum::<u64>() >= 9
            });
            let fleet = &it["fleets"][0];
            assert_eq!((&fleet["fleet"], &fleet["expired"]), (&"test".into(), &0.into()));
            let granted: u64 = members(&it).values().map(|(granted, _)| granted).sum();
            let held: u64 = members(&it).values().map(|(_, live)| live).sum();
            assert_eq!((&fleet["granted"], &fleet["live"]), (&granted.into(), &held.into()));
            assert!(granted >= held && granted <= 200, "{fleet:#}");
        }
    })
    .await
    .unwrap();

    let (leaver, leases) = pools.remove(0);
    drop(leases);
    leaver.close().await;
    tokio::task::spawn_blocking(move || {
        let live = Live::json(&[&[url.as_str()], FAST].concat());
        live.until("the two that are left", |it| members(it).len() == 2);
        let (_, frame) = text(&[&[url.as_str()], FAST].concat());
        assert!(frame.contains("fleet test") && frame.contains("2 members"), "{frame}");
    })
    .await
    .unwrap();
}

#[test]
fn what_the_registry_no_longer_counts_is_not_counted() {
    let server = TestServer::start().unwrap();
    let [members_key, expiries] =
        ["members", "expiries"].map(|part| format!("{{redis-guard:shop}}:{part}"));
    let records = [
        ("alive", "4 7 5 2 1"),
        ("newcomer", "1 2 0 0 0"),
        ("dead", "9 50 50 1 1"),
        ("overwritten", "many"),
        ("\u{1b}[2J", "1 1 1 0 0"),
    ];
    for (id, record) in records {
        server.admin().text(&["HSET", &members_key, id, record]);
    }
    server.admin().text(&["ZADD", &expiries, "99999999999999", "alive", "1000", "dead"]);
    let url = server.url_with(Transport::Tcp, Resp::Resp3, Auth::None, 0);

    let (_, seen) = json(&[&[url.as_str()], FAST].concat());

    let fleet = &seen["servers"][0]["fleets"][0];
    let found = members(&seen["servers"][0]);
    assert_eq!(found.get("alive"), Some(&(7, 5)));
    assert_eq!(found.len(), 3, "{fleet:#}");
    assert_eq!((&fleet["granted"], &fleet["live"]), (&10.into(), &6.into()));
    assert_eq!((&fleet["expired"], &fleet["unreadable"]), (&1.into(), &1.into()));
    let (_, frame) = text(&[&[url.as_str()], FAST].concat());
    assert!(frame.contains("fleet shop") && !frame.contains('\u{1b}'), "{frame:?}");
}

#[test]
fn a_fleet_is_looked_for_among_so_many_keys_and_read_by_name_among_any() {
    let server = TestServer::start().unwrap();
    server.admin().text(&["DEBUG", "POPULATE", "100000"]);
    let url = server.url();

    let (_, seen) = json(&[&[url.as_str()], FAST].concat());
    let note = seen["servers"][0]["fleets_problem"].as_str().unwrap().to_owned();
    assert!(note.contains("give --fleet NAME"), "{note}");
    let calls = server.admin().text(&["INFO", "commandstats"]);
    let scans = calls.split("cmdstat_scan:calls=").nth(1).and_then(|it| it.split(',').next());
    assert_eq!((scans, calls.contains("cmdstat_keys")), (Some("20"), false), "{calls}");

    server.admin().text(&["HSET", "{redis-guard:shop}:members", "one", "1 2 1 0 0"]);
    let (_, seen) = json(&[&[url.as_str(), "--fleet", "shop"], FAST].concat());
    assert_eq!(members(&seen["servers"][0]).len(), 1);
    let (_, frame) = text(&[&[url.as_str(), "--fleet", "other"], FAST].concat());
    assert!(frame.contains("no registry of other here"), "{frame}");
}

#[test]
fn a_registry_of_another_kind_is_said_in_its_place() {
    let server = TestServer::start().unwrap();
    server.admin().text(&["SET", "{redis-guard:shop}:members", "x"]);
    let url = server.url();
    let (code, seen) = json(&[&[url.as_str()], FAST].concat());
    let it = &seen["servers"][0];
    assert_eq!(code, 0);
    assert!(it["fleets_problem"].as_str().unwrap().contains("WRONGTYPE"), "{it:#}");
    assert!(it["used"].is_u64());
}
