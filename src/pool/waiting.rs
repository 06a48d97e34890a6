//! Waiters, as the ledger keeps them, and what they are handed.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use redis::Msg;
use tokio::sync::mpsc;

use super::intake::Intake;
use super::leaks::Seat;
use super::store::{Connection, Lent, Socket};
use crate::Rejection;
use crate::dial::Sink;
use crate::ledger::AccountId;
use crate::sync::oneshot;

/// A waiter, as the ledger keeps it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) answer: Answer,
    pub(super) location: &'static Location<'static>,
}

/// Where a waiter hears: it is handed what it waits for as plain data, which is to be given back where
/// it is gone.
#[derive(Debug)]
pub(super) enum Answer {
    Lease(oneshot::Sender<Result<Leased, Rejection>>),
    Subscriber(oneshot::Sender<Result<Subscribed, Rejection>>),
}

/// A connection, and the place of its lease in its endpoint's budget.
#[derive(Debug)]
pub(super) struct Leased {
    pub(super) connection: Lent,
    pub(super) place: LeasePlace,
}

/// A lease's place in its endpoint's budget, and among those that are out.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeasePlace {
    pub(super) account: AccountId,
    pub(super) seat: Seat,
}

/// What a lane hears that waits for the successor of its connection.
#[derive(Debug)]
pub(super) enum Succession {
    /// Its connection is closed once this one is in its place.
    Successor(Connection),
    /// There is no room for two: its connection is closed, and then another one dialed.
    CloseFirst,
}

/// A subscriber's connection, and the place of its lease.
pub(super) struct Subscribed {
    pub(super) sink: Sink,
    pub(super) messages: mpsc::UnboundedReceiver<Msg>,
    pub(super) intake: Arc<Intake>,
    pub(super) socket: Arc<Socket>,
    pub(super) place: LeasePlace,
}

impl fmt::Debug for Subscribed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribed").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Answer {
    pub(super) fn refuse(self, rejection: Rejection) {
        // Where the waiter is gone, nobody minds.
        match self {
            Self::Lease(waiter) => drop(waiter.send(Err(rejection))),
            Self::Subscriber(waiter) => drop(waiter.send(Err(rejection))),
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Lease(waiter) => waiter.is_closed(),
            Self::Subscriber(waiter) => waiter.is_closed(),
        }
    }
}
