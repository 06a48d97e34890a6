//! Credentials that change: whoever is connected authenticates again, on the connection that it has.
//!
//! A server that refuses them leaves the connection as it was, so nothing that works is lost by trying.

use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult, Value};

use super::node::Node;
use super::store::Socket;
use super::watch::mailbox::PendingReply;
use crate::dial::Login;
use crate::telemetry::status::CloseReason;
use crate::vocabulary::reply::within;

impl Node {
    /// Dials with these credentials from now on, and has all that are connected authenticate with them.
    pub(super) fn set_credentials(self: &Arc<Self>, username: Option<&str>, password: &str) {
        if !self.dialer.set_credentials(username, password) {
            return;
        }
        for socket in self.sockets() {
            match socket.is_subscriber() {
                // It can send nothing but subscriptions: it gets another connection.
                true => socket.outdate(CloseReason::Replaced),
                false => socket.ask_to_authenticate(),
            }
        }
        self.change(|state| {
            state.gate.credentials_changed();
            state.ledger.retry_successors();
        });
        self.authenticate_free();
        self.dialer_wanted.notify_one();
    }

    /// Has those authenticate that nobody holds, and the lanes. A lease does before its next command,
    /// or when it comes back.
    pub(super) fn authenticate_free(self: &Arc<Self>) {
        // Sent under the lock: once it is lent, its holder may be in a transaction.
        let sent: Vec<_> = {
            let state = self.lock();
            let idle = state.store.copies(Socket::is_to_authenticate);
            idle.into_iter().filter_map(|(redis, socket)| self.send_auth(&redis, &socket)).collect()
        };
        sent.into_iter().for_each(|sent| self.hear_auth(sent));
        for carrier in self.lanes.carriers() {
            self.authenticate(&carrier.redis, &carrier.socket);
        }
    }

    /// Has a connection authenticate that is in no transaction, if it is to.
    pub(super) fn authenticate(self: &Arc<Self>, redis: &MultiplexedConnection, socket: &Socket) {
        if socket.is_to_authenticate()
            && let Some(sent) = self.send_auth(redis, socket)
        {
            self.hear_auth(sent);
        }
    }

    fn send_auth(&self, redis: &MultiplexedConnection, socket: &Socket) -> Option<Sent> {
        // First, so that credentials that come meanwhile are not forgotten.
        socket.authenticates();
        let login = self.dialer.login();
        let commands = login.auth()?;
        Some(Sent { reply: PendingReply::send(redis, commands), login })
    }

    fn hear_auth(self: &Arc<Self>, Sent { reply, login }: Sent) {
        let node = Arc::clone(self);
        self.spawn(async move {
            let limit = Some(node.settings().response_timeout);
            let reply = within(limit, reply.answer()).await;
            if let Some(refusal) = refusal(reply)
                && login.is_first_refusal()
            {
                node.credentials_failed(&login, &refusal);
            }
        });
    }

    /// New credentials could not be had, or were refused.
    fn credentials_failed(&self, login: &Login, error: &RedisError) {
        let reason = login.redact(error.to_string());
        self.context.credentials_failed(self.address(), reason);
    }
}

/// An AUTH on its way, and with what.
struct Sent {
    reply: PendingReply,
    login: Arc<Login>,
}

/// How the server refused, if it did; a connection that broke is another matter.
fn refusal(reply: RedisResult<Vec<Value>>) -> Option<RedisError> {
    let error = match reply {
        Ok(replies) => replies.into_iter().find_map(|reply| reply.extract_error().err())?,
        Err(error) => error,
    };
    error.code().is_some().then_some(error)
}

#[cfg(feature = "credentials")]
mod provided {
    use std::time::Duration;

    use futures_util::StreamExt;
    use redis::ErrorKind;
    use tokio::time::Instant;

    use super::*;
    use crate::vocabulary::{DialFailure, Outcome};

    /// Time before a provider is asked again whose stream has ended.
    const PAUSE: Duration = Duration::from_secs(1);

    /// Takes what the provider gives, for as long as the pool is open.
    pub(in crate::pool) async fn follow(node: Arc<Node>) {
        let Some(provider) = node.dialer.provider.clone() else { return };
        while !node.is_closed() {
            let mut credentials = provider.0.subscribe();
            loop {
                let next = tokio::select! {
                    biased;
                    () = node.closed() => return,
                    next = credentials.next() => next,
                };
                match next {
                    Some(Ok(auth)) => {
                        let username = Some(auth.username()).filter(|name| !name.is_empty());
                        node.set_credentials(username, auth.password());
                    }
                    Some(Err(error)) => provider_failed(&node, &error),
                    None => break,
                }
            }
            let ended = "the credentials provider's stream has ended";
            provider_failed(&node, &(ErrorKind::AuthenticationFailed, ended).into());
            let _ = tokio::time::timeout(PAUSE, node.closed()).await;
        }
    }

    /// What is connected goes on. A pool that never had any credentials cannot dial.
    fn provider_failed(node: &Arc<Node>, error: &RedisError) {
        let login = node.dialer.login();
        node.credentials_failed(&login, error);
        if node.dialer.awaits_credentials() {
            let message = login.redact(error.to_string());
            let failure = DialFailure { server: node.address(), outcome: Outcome::Auth, message };
            node.change(|state| state.gate.unresolved(Arc::new(failure), Instant::now()));
        }
    }
}

#[cfg(feature = "credentials")]
pub(super) use provided::follow;
