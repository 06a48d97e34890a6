//! How many connections the handles take, and when.

use std::collections::BTreeSet;

use futures_util::future::join_all;

use crate::support::dials;
use crate::waiting::{clients, soon, until};
use crate::{ask, at_rest, connections, endpoint, lane_id, lanes, pair, pair_with, send, sending};

#[tokio::test]
async fn making_handles_opens_nothing() {
    let (server, pool) = pair();

    let handles: Vec<_> = (0..100).map(|_| pool.shared("search")).collect();
    let _clones = handles.clone();

    assert!(dials(&pool).is_empty() && lanes(&pool).is_empty());
    assert_eq!(clients(&server), 0);
}

#[tokio::test]
async fn a_caller_who_takes_the_lanes_name_counts_as_other_and_leaves_them_their_budget() {
    let (_server, pool) = pair();
    let _early = pool.acquire("shared-lanes").await.unwrap();
    let mut handle = pool.shared("shared-lanes");

    let _: String = ask(&mut handle, "PING").await;
    let _late = pool.acquire("shared-lanes").await.unwrap();
    let _now = pool.try_acquire("shared-lanes");

    let own = endpoint(&pool, "shared-lanes");
    assert_eq!((own.in_use, own.acquired, own.reserve, own.max), (1, 1, 1, 2), "the lane's own");
    assert_eq!(endpoint(&pool, "other").in_use, 2);
    let used: Vec<_> = pool.status().endpoints.iter().map(|it| it.name.to_string()).collect();
    assert_eq!(used, ["other", "shared-lanes"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_handles_and_their_clones_share_one_socket() {
    let (server, pool) = pair();
    let callers = (0..64).map(|at| {
        let mut handle = pool.shared(["search", "checkout"][at % 2]);
        tokio::spawn(async move {
            for _ in 0..20 {
                let _: () = ask(&mut handle.clone(), "SET k v").await;
                let _: String = ask(&mut handle, "GET k").await;
            }
        })
    });

    for ended in soon("the callers", join_all(callers)).await {
        ended.unwrap();
    }

    assert_eq!(connections(&server), 1);
    assert_eq!(dials(&pool), [("connected", 1)].into());
    at_rest(&pool, &server).await;
}

#[tokio::test]
async fn each_of_many_answers_goes_to_the_one_who_asked() {
    let (_server, pool) = pair();
    let handle = pool.shared("search");
    let callers = (0..1_000).map(|at| {
        let mut handle = handle.clone();
        async move { (at.to_string(), ask::<String>(&mut handle, &format!("ECHO {at}")).await) }
    });

    for (asked, told) in soon("the callers", join_all(callers)).await {
        assert_eq!(asked, told);
    }
}

#[tokio::test]
async fn so_many_lanes_are_opened_and_no_more() {
    let (server, pool) = pair_with(|builder| builder.shared_lanes(3));
    let mut handles: Vec<_> = (0..64).map(|_| pool.shared("search")).collect();
    for handle in &mut handles {
        let _: String = ask(handle, "PING").await;
    }
    until("three lanes", &pool, || lanes(&pool).iter().filter(|lane| lane.up).count() == 3).await;

    let mut ids = BTreeSet::new();
    for handle in &mut handles {
        ids.insert(lane_id(&mut handle.clone()).await);
    }

    assert_eq!((ids.len(), connections(&server)), (3, 3));
    assert_eq!(dials(&pool), [("connected", 3)].into());
}

#[tokio::test]
async fn a_handle_stays_on_its_lane() {
    let (_server, pool) = pair_with(|builder| builder.shared_lanes(3));
    let mut handle = pool.shared("search");
    let id = lane_id(&mut handle).await;
    for other in 0..8 {
        assert!(send(&mut pool.shared("search"), "PING").await.is_ok(), "{other}");
    }

    for _ in 0..8 {
        assert_eq!(lane_id(&mut handle).await, id);
    }
}

/// The first commands go over whichever lane is up first, the later ones over all of them.
#[tokio::test]
async fn handles_spread_over_the_lanes_once_all_are_up() {
    let (_server, pool) = pair_with(|builder| builder.shared_lanes(2));
    let mut handles = [pool.shared("search"), pool.shared("search")];
    for handle in &mut handles {
        let _: String = ask(handle, "PING").await;
    }
    until("two lanes", &pool, || lanes(&pool).iter().filter(|lane| lane.up).count() == 2).await;

    let spread = async {
        loop {
            let [first, second] = &mut handles;
            if lane_id(first).await != lane_id(second).await {
                break;
            }
        }
    };
    soon("the spread", spread).await;
}

#[tokio::test]
async fn callers_that_come_before_the_first_lane_is_up_wait_for_one_dial() {
    let (server, pool) = pair();
    let callers = (0..64).map(|_| sending(&pool, "search", "PING"));

    let replies = soon("the callers", join_all(callers)).await;

    assert!(replies.iter().all(Result::is_ok), "{replies:?}");
    assert_eq!((dials(&pool), connections(&server)), ([("connected", 1)].into(), 1));
}

#[tokio::test]
async fn an_idle_connection_becomes_the_lane_without_a_dial() {
    let (server, pool) = pair();
    pool.warm_up(1).await.unwrap();

    assert!(send(&mut pool.shared("search"), "PING").await.is_ok());

    assert_eq!((dials(&pool), connections(&server)), ([("connected", 1)].into(), 1));
}

#[tokio::test]
async fn lanes_count_as_an_endpoint_of_their_own_and_not_as_their_users() {
    let (_server, pool) = pair_with(|builder| builder.shared_lanes(2));
    for _ in 0..4 {
        assert!(send(&mut pool.shared("search"), "PING").await.is_ok());
    }
    until("two lanes", &pool, || endpoint(&pool, "shared-lanes").in_use == 2).await;

    assert_eq!(endpoint(&pool, "search").in_use, 0);
    assert_eq!(pool.status().in_use, 2);
}

#[tokio::test]
async fn leases_and_lanes_share_the_pools_connections() {
    let (server, pool) = pair_with(|builder| builder.max_connections(3));
    let mut handle = pool.shared("search");
    let _: String = ask(&mut handle, "PING").await;
    let _leases = [pool.acquire("test").await.unwrap(), pool.acquire("test").await.unwrap()];

    assert_eq!(pool.try_acquire("test").unwrap_err().reason(), "acquire_timeout");

    let _: String = ask(&mut handle, "PING").await;
    assert_eq!(connections(&server), 3);
}

/// Reserves keep connections from the lanes as from everybody: either the builder says that there is
/// none left for a lane, or there is one.
#[tokio::test]
async fn reserves_that_leave_no_room_for_a_lane_are_reported_or_do_not_matter() {
    use redis_guard::Budget;
    let (server, _) = pair();
    let built = crate::builder(&server.url())
        .max_connections(2)
        .endpoint("checkout", Budget::max(2).reserve(2))
        .acquire_timeout(std::time::Duration::from_millis(200))
        .build();
    let Ok(pool) = built else { return };

    let told = send(&mut pool.shared("search"), "PING").await;

    assert!(told.is_ok(), "{told:?}");
}
