//! apalis-redis: a queue of jobs.

#[path = "../support/server.rs"]
mod server;

use std::collections::HashMap;
use std::time::Duration;

use apalis_core::backend::TaskSink;
use apalis_core::error::BoxDynError;
use apalis_core::task::data::Data;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_redis::RedisStorage;
use redis_guard::GuardedPool;
use serde::{Deserialize, Serialize};
use server::TestServer;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::timeout;

/// Far above anything that is waited for.
const HANG: Duration = Duration::from_secs(60);

#[derive(Debug, Deserialize, Serialize)]
struct Email {
    to: String,
}

/// The pools' connections, as the server counts them.
fn connections(server: &TestServer) -> usize {
    let named = |client: &&HashMap<String, String>| client["name"] == "jobs";
    server.admin().client_list().iter().filter(named).count()
}

async fn send(email: Email, sent: Data<UnboundedSender<String>>) -> Result<(), BoxDynError> {
    Ok(sent.send(email.to)?)
}

#[tokio::test]
async fn jobs_are_done_over_the_shared_connection_also_while_the_server_is_full() {
    let server = TestServer::builder().maxclients(16).start().unwrap();
    let pool = GuardedPool::builder(server.url())
        .client_name("jobs")
        .acquire_timeout(HANG)
        .connect_timeout(HANG)
        .response_timeout(HANG)
        .build()
        .unwrap();
    let mut emails = RedisStorage::new(pool.shared("emails"));
    let (sender, mut sent) = unbounded_channel::<String>();
    let worker = WorkerBuilder::new("post").backend(emails.clone()).data(sender).build(send);
    let worker = tokio::spawn(worker.run());
    emails.push(Email { to: "alice".to_owned() }).await.unwrap();
    assert_eq!(timeout(HANG, sent.recv()).await.unwrap().as_deref(), Some("alice"));

    let occupants = server.fill();
    for to in ["bob", "carol"] {
        emails.push(Email { to: to.to_owned() }).await.unwrap();
        assert_eq!(timeout(HANG, sent.recv()).await.unwrap().as_deref(), Some(to));
    }

    assert_eq!((pool.status().live, pool.status().in_use), (1, 1), "{:?}", pool.status().lanes);
    assert_eq!(connections(&server), 1);
    drop(occupants);
    worker.abort();
}
