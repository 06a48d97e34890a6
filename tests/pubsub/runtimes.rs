//! A subscriber that is handed from one runtime to another.

use redis_guard::PubSubEvent;
use tokio::runtime::{Builder, Runtime};

use crate::support::{TestServer, dials, unhurried};
use crate::{next, payload, publish};

fn short_lived() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn in_a_pool_with_a_runtime_of_its_own_it_misses_nothing() {
    let server = TestServer::start().unwrap();
    let own = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let pool = unhurried(server.url()).runtime(own.handle().clone()).build().unwrap();
    let mut subscriber = short_lived().block_on(async {
        let mut subscriber = pool.pubsub("orders").await.unwrap();
        subscriber.subscribe("a").await.unwrap();
        subscriber
    });

    assert_eq!(publish(&server, "a", "between"), 1);

    assert_eq!(short_lived().block_on(payload(&mut subscriber)), "between");
    assert_eq!(dials(&pool), [("connected", 1)].into());
}

#[test]
fn without_one_it_hears_gap() {
    let server = TestServer::start().unwrap();
    let pool = unhurried(server.url()).build().unwrap();
    let mut subscriber = short_lived().block_on(async {
        let mut subscriber = pool.pubsub("orders").await.unwrap();
        subscriber.subscribe("a").await.unwrap();
        subscriber
    });

    let event = short_lived().block_on(next(&mut subscriber));

    assert!(matches!(event, PubSubEvent::Gap), "{event:?}");
}
