//! The connection.

use std::ops::{Deref, DerefMut};

use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisFuture, Value};

use crate::GuardedConnection;

/// A connection of a [`Pool`](super::Pool), given back when it is dropped: a [`GuardedConnection`] under deadpool-redis's
/// name. What that says of timeouts, of what is left behind and of cancelling holds here.
#[derive(Debug)]
pub struct Connection(GuardedConnection);

impl Connection {
    /// The lease itself. It goes on counting among the pool's connections, and is given back when it is dropped:
    /// in deadpool-redis it would be the pool's no more, and the server would have one connection more than its
    /// share.
    #[must_use]
    pub fn take(this: Self) -> GuardedConnection {
        this.0
    }
}

impl From<GuardedConnection> for Connection {
    fn from(lease: GuardedConnection) -> Self {
        Self(lease)
    }
}

impl From<Connection> for GuardedConnection {
    fn from(connection: Connection) -> Self {
        connection.0
    }
}

impl Deref for Connection {
    type Target = GuardedConnection;

    fn deref(&self) -> &GuardedConnection {
        &self.0
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut GuardedConnection {
        &mut self.0
    }
}

impl AsRef<GuardedConnection> for Connection {
    fn as_ref(&self) -> &GuardedConnection {
        &self.0
    }
}

impl AsMut<GuardedConnection> for Connection {
    fn as_mut(&mut self) -> &mut GuardedConnection {
        &mut self.0
    }
}

impl ConnectionLike for Connection {
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
