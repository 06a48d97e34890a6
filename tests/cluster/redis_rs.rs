//! redis-rs's own cluster router over shared handles: its retries dial nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis_guard::redis::aio::ConnectionLike;
use redis_guard::redis::cluster::ClusterClientBuilder;
use redis_guard::redis::cluster_async::Connect;
use redis_guard::redis::{
    AsyncCommands, AsyncConnectionConfig, Cmd, ConnectionAddr, IntoConnectionInfo, Pipeline,
    RedisFuture, Value,
};
use redis_guard::{GuardedPool, SharedConnection};
use tokio::time::sleep;

use crate::support::{Cluster, dials};
use crate::waiting::soon;
use crate::{NAME, hasty};

/// One pool for each node that was connected to, and how often one was.
static POOLS: Mutex<Option<HashMap<u16, Dialed>>> = Mutex::new(None);

#[derive(Clone)]
struct Dialed {
    pool: GuardedPool,
    connects: Arc<Mutex<u64>>,
}

/// A shared handle, as redis-rs's router wants its connections.
#[derive(Clone)]
struct Guarded(SharedConnection);

impl Connect for Guarded {
    fn connect_with_config<'a, T>(info: T, _: AsyncConnectionConfig) -> RedisFuture<'a, Self>
    where
        T: IntoConnectionInfo + Send + 'a,
    {
        Box::pin(async move {
            let info = info.into_connection_info()?;
            let ConnectionAddr::Tcp(_, port) = *info.addr() else { panic!("{:?}", info.addr()) };
            let dialed = {
                let mut pools = POOLS.lock().unwrap();
                let pools = pools.get_or_insert_default();
                let new = || {
                    let pool = GuardedPool::builder(info).client_name(NAME).build().unwrap();
                    Dialed { pool, connects: Arc::default() }
                };
                pools.entry(port).or_insert_with(new).clone()
            };
            *dialed.connects.lock().unwrap() += 1;
            Ok(Self(dialed.pool.shared("router")))
        })
    }
}

impl ConnectionLike for Guarded {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.0.req_packed_command(cmd)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.0.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_retries_of_a_node_that_is_away_do_not_redial_it() {
    let cluster = Cluster::start(3, &hasty()).unwrap();
    let client = ClusterClientBuilder::new(cluster.urls())
        .retries(16)
        .retry_wait_formula(1, 1)
        .max_retry_wait(2)
        .build()
        .unwrap();
    let mut router = client.get_async_generic_connection::<Guarded>().await.unwrap();
    let away = cluster.key_on(1);
    let () = soon("SET", router.set(&away, 1)).await.unwrap();

    cluster.node(1).stop();
    let retries = tokio::spawn(async move {
        loop {
            let _ = router.get::<_, Option<i64>>(&away).await;
        }
    });
    sleep(Duration::from_secs(2)).await;
    retries.abort();

    let port = cluster.node(1).port();
    let dialed = POOLS.lock().unwrap().as_ref().unwrap()[&port].clone();
    let (connects, refused) = (*dialed.connects.lock().unwrap(), dials(&dialed.pool)["refused"]);
    println!("{connects} connects of the router, {refused} dials");
    assert!(refused <= 12, "{refused} dials in 2 s, for {connects} connects of the router");
}
