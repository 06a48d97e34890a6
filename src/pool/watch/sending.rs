//! Sending what the watch asks: over a connection that the pool holds anyway.

use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, RedisResult, Value};

use super::mailbox::{Mailbox, PendingReply};
use crate::pool::node::Node;
use crate::pool::shared::lanes::{Carried, Carrier};
use crate::vocabulary::reply::within;

/// How long a question waits for a connection when all are lent, before it is put together anew: what
/// it reports is of then.
pub(super) const PENDING_FOR: Duration = Duration::from_millis(50);

pub(super) struct Sent {
    pub(super) replies: RedisResult<Vec<Value>>,
    /// The lane that they came over, which stays up for as long as this is kept.
    pub(super) lane: Option<Carried>,
}

/// Sends commands over a connection to that server that the pool holds anyway; `None` if none was to be
/// had. While the server moves, the others are to the one before. `urgent`: one that is held will do.
pub(super) async fn send(
    node: &Arc<Node>,
    server: &Arc<str>,
    commands: &Pipeline,
    urgent: bool,
) -> Option<Sent> {
    let limit = Some(node.settings().response_timeout);
    let lane = node.lanes.any().filter(|carrier| carrier.socket.server == *server);
    if let Some(lane) = lane.and_then(Carrier::carry) {
        let mut redis = lane.redis();
        let sent = redis.send_packed_commands(commands, 0, commands.len());
        let replies = within(limit, sent).await;
        return Some(Sent { replies, lane: Some(lane) });
    }
    let reply = match send_on_idle(node, server, commands) {
        Some(reply) => reply,
        // All are lent, or none is there yet.
        None => send_on_next(node, server, commands, urgent).await?,
    };
    let replies = within(limit, reply.answer()).await;
    Some(Sent { replies, lane: None })
}

/// Sends on a connection that nobody has.
fn send_on_idle(node: &Arc<Node>, server: &Arc<str>, commands: &Pipeline) -> Option<PendingReply> {
    let connection = node.withdraw_one(|socket| socket.server == *server)?;
    let reply = PendingReply::send(&connection.redis, commands.clone());
    node.restore(connection);
    Some(reply)
}

/// Sends on the next connection that is dialed or comes back, or, if they are `urgent`, is used.
async fn send_on_next(
    node: &Arc<Node>,
    server: &Arc<str>,
    commands: &Pipeline,
    urgent: bool,
) -> Option<PendingReply> {
    /// Nobody waits for the reply any more, so that it must not be sent after that.
    struct TakeBack<'a>(&'a Mailbox);
    impl Drop for TakeBack<'_> {
        fn drop(&mut self) {
            self.0.take_back();
        }
    }
    let reply = node.mailbox.leave(Arc::clone(server), commands.clone(), urgent);
    let _pending = TakeBack(&node.mailbox);
    // One may have come back before it could know.
    if let Some(connection) = node.withdraw_one(|socket| socket.server == *server) {
        let sent = node.mailbox.take_back();
        let reply = sent.map(|commands| PendingReply::send(&connection.redis, commands));
        node.restore(connection);
        if reply.is_some() {
            return reply;
        }
    }
    tokio::time::timeout(PENDING_FOR, reply).await.ok()?.ok()
}
