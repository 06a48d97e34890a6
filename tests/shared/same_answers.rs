//! The property: a shared and an exclusive connection give the same answers.

use proptest::collection::vec;
use proptest::prelude::prop_assert_eq;
use proptest::test_runner::{Config, TestRunner};

use crate::builder;
use crate::steps::{step, told};
use crate::support::{Auth, Resp, TestServer, Transport};

fn the_same_answers(resp: Resp) {
    let server = TestServer::start().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let pool =
        |db| builder(&server.url_with(Transport::Tcp, resp, Auth::None, db)).build().unwrap();
    let (shared, exclusive) = (pool(1), pool(2));
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };

    let ran = TestRunner::new(config).run(&vec(step(), 1..40), |steps| {
        server.admin().text(&["FLUSHALL"]);
        runtime.block_on(async {
            let mut handle = shared.shared("test");
            let mut lease = exclusive.acquire("test").await.unwrap();
            for step in &steps {
                let answers = (told(&mut handle, step).await, told(&mut lease, step).await);
                prop_assert_eq!(&answers.0, &answers.1, "{:?}", step);
            }
            Ok(())
        })
    });

    ran.unwrap_or_else(|error| panic!("{error}"));
    let _guard = runtime.enter();
    drop((shared, exclusive));
}

#[test]
fn shared_and_exclusive_connections_give_the_same_answers_in_resp2() {
    the_same_answers(Resp::Resp2);
}

#[test]
fn shared_and_exclusive_connections_give_the_same_answers_in_resp3() {
    the_same_answers(Resp::Resp3);
}
