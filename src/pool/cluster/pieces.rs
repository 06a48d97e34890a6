//! What a command, or a pipeline, is cut into for the nodes that it goes to, and how the replies are put together.

use std::sync::Arc;

use redis::{Arg, Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};

use super::Aim;
use super::carrier::Carrier;
use crate::Error;
use crate::pool::node::Node;
use crate::vocabulary::command::Sharing;
use crate::vocabulary::routing::Combine;

/// Whom a command, or a part of one, is for.
#[derive(Clone)]
pub(super) enum Goal {
    Slot(u16),
    Any,
    Node(Arc<Node>),
}

/// A command, or a part of one, for one node.
pub(super) struct Piece {
    pub(super) cmd: Cmd,
    pub(super) goal: Goal,
}

/// How the reply to one command of a pipeline comes about.
pub(super) enum Made {
    /// It is the reply to this piece.
    Of(usize),
    /// It is made of the replies to these.
    Together(std::ops::Range<usize>, Combine),
}

/// What one node is sent in one go.
pub(super) struct Leg {
    pub(super) node: Arc<Node>,
    pub(super) pipeline: Pipeline,
    /// By reply: the piece that it is for; none is for ASKING.
    pub(super) pieces: Vec<Option<usize>>,
    pub(super) sharing: Sharing,
}

impl Made {
    /// The reply of all replies.
    pub(super) fn reply(self, replies: &mut [Value]) -> Result<Value, Error> {
        let take = |reply: &mut Value| std::mem::replace(reply, Value::Nil);
        let (range, combine) = match self {
            Self::Of(piece) => return Ok(take(&mut replies[piece])),
            Self::Together(range, combine) => (range, combine),
        };
        let (errors, good): (Vec<_>, Vec<_>) = replies[range]
            .iter_mut()
            .map(take)
            .partition(|reply| matches!(reply, Value::ServerError(_)));
        match errors.into_iter().next() {
            Some(error) if good.is_empty() || !combine.one_is_enough() => Ok(error),
            _ => Ok(combine.combine(good)?),
        }
    }
}

/// What each node is sent, by the nodes' names: whoever takes several connections takes them in one order.
pub(super) fn legs<C: Carrier>(pieces: &[Piece], aims: &[(usize, Aim)]) -> Vec<Leg> {
    let mut legs: Vec<Leg> = Vec::new();
    for (number, Aim { node, asking }) in aims {
        let at = legs.iter().position(|leg| Arc::ptr_eq(&leg.node, node)).unwrap_or(legs.len());
        if at == legs.len() {
            let node = Arc::clone(node);
            let (pipeline, sharing) = (redis::pipe(), Sharing::Allowed);
            legs.push(Leg { node, pipeline, pieces: Vec::new(), sharing });
        }
        let leg = &mut legs[at];
        if *asking {
            leg.pipeline.cmd("ASKING");
            leg.pieces.push(None);
        }
        let cmd = &pieces[*number].cmd;
        leg.pipeline.add_command(cmd.clone());
        leg.pieces.push(Some(*number));
        leg.sharing = leg.sharing.max(C::sharing(cmd));
    }
    legs.sort_by_cached_key(|leg| leg.node.address());
    legs
}

/// The commands, each to be answered by a node that does not serve its slot yet.
pub(super) fn asking<'a>(cmds: impl IntoIterator<Item = &'a Cmd>) -> Pipeline {
    let mut pipeline = redis::pipe();
    for cmd in cmds {
        pipeline.cmd("ASKING").add_command(cmd.clone());
    }
    pipeline
}

/// A transaction for such a node: within one, ASKING holds until its end.
pub(super) fn asking_once<'a>(cmds: impl Iterator<Item = &'a Cmd>) -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.cmd("ASKING");
    for cmd in cmds {
        pipeline.add_command(cmd.clone());
    }
    pipeline
}

/// The reply to EXEC, or the first error: what redis-rs makes of a transaction.
pub(super) fn last(replies: Vec<Value>) -> Result<Vec<Value>, Error> {
    let mut last = Vec::new();
    for reply in replies {
        last = vec![reply.extract_error()?];
    }
    Ok(last)
}

/// The error of one node where others have done their part.
pub(super) fn in_part(server: &str, error: Error) -> Error {
    let (kind, what) = match &error {
        Error::Rejected(_) => (ErrorKind::Client, "was sent nothing"),
        Error::Inner(error) => (error.kind(), "failed"),
    };
    let why = format!("{server} {what}, and the other nodes may have done their part: {error}");
    RedisError::from((kind, "command over several nodes", why)).into()
}

pub(super) fn cross_slot() -> RedisError {
    let why = "its keys are in several slots; a common part in braces, as in {cart:42}:items, puts keys into one";
    (ErrorKind::Server(ServerErrorKind::CrossSlot), "nothing was sent", why.to_owned()).into()
}

pub(super) fn refused(cmd: &Cmd, why: &str) -> RedisError {
    let name = match cmd.args_iter().next() {
        Some(Arg::Simple(name)) => String::from_utf8_lossy(name).to_uppercase(),
        _ => String::new(),
    };
    (ErrorKind::Client, "command refused on a cluster", format!("{name}: {why}")).into()
}
