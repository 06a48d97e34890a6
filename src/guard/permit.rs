//! Permits: the right to one call, given back however it ends.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::Shared;
use super::calls::{Heard, Pass};
use crate::ledger::{AccountId, Ticket};
use crate::vocabulary::DialFailure;
use crate::{Class, Rejection};

/// The right to make one call, from [`Guard::admit`](crate::Guard::admit).
///
/// Say how the call ended with [`finish`](Self::finish). Dropped, it counts as a call that was
/// given up: its place is free, and nothing is learned from it.
///
/// ```
/// use redis_guard::{Class, Guard};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let guard = Guard::builder().max_in_flight(16).build()?;
/// let permit = guard.admit("search")?;
/// // Here the call is made.
/// permit.finish(Class::Worked);
/// assert_eq!(guard.status().in_flight, 0);
/// # Ok(()) }
/// ```
#[must_use = "dropped at once, it guards nothing"]
pub struct Permit {
    shared: Arc<Shared>,
    account: AccountId,
    /// `None` once it is over.
    pass: Option<Pass>,
}

impl Permit {
    pub(super) fn new(shared: Arc<Shared>, account: AccountId, pass: Pass) -> Self {
        Self { shared, account, pass: Some(pass) }
    }

    /// The call is over.
    #[inline]
    pub fn finish(mut self, class: Class) {
        if let Class::Worked = class
            && let Some(Pass::Regular { .. }) = self.pass
            && self.shared.ended_well(self.account)
        {
            self.pass = None;
        } else {
            self.finish_slowly(class);
        }
    }

    #[cold]
    fn finish_slowly(&mut self, class: Class) {
        let heard = match class {
            Class::Worked => Heard::Worked,
            Class::Unknown => Heard::Nothing,
            Class::Failed { outcome, message } => {
                let server = self.shared.server();
                Heard::Failed(Arc::new(DialFailure { server, outcome, message }))
            }
        };
        self.end(heard);
    }

    fn end(&mut self, heard: Heard) {
        if let Some(pass) = self.pass.take() {
            self.shared.ended(self.account, pass, heard);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.end(Heard::Nothing);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let probe = matches!(self.pass, Some(Pass::Probe { .. }));
        f.debug_struct("Permit").field("probe", &probe).finish_non_exhaustive()
    }
}

/// A caller in the queue: ready with its permit, or with a refusal when its time is over.
///
/// # Cancel safety
///
/// Dropping it leaves the queue; a permit that was on its way goes to the next caller.
#[pin_project::pin_project(PinnedDrop)]
pub(crate) struct Waiter {
    shared: Arc<Shared>,
    account: AccountId,
    ticket: Ticket,
    since: Instant,
    answer: oneshot::Receiver<Answer>,
    #[pin]
    deadline: Sleep,
}

pub(super) type Answer = Result<Permit, Rejection>;

impl Waiter {
    pub(super) fn new(
        shared: Arc<Shared>,
        account: AccountId,
        ticket: Ticket,
        answer: oneshot::Receiver<Answer>,
    ) -> Self {
        let since = Instant::now();
        let deadline = tokio::time::sleep_until(since + shared.acquire_timeout());
        Self { shared, account, ticket, since, answer, deadline }
    }
}

impl Future for Waiter {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let this = self.project();
        if let Poll::Ready(answer) = Pin::new(&mut *this.answer).poll(cx) {
            // A sender is never dropped unanswered, but if it were, that is what it would mean.
            return Poll::Ready(answer.unwrap_or(Err(Rejection::Closed)));
        }
        this.deadline.poll(cx).map(|()| {
            // It leaves now, and not when somebody drops it: a permit must not come to rest here.
            this.answer.close();
            this.answer.try_recv().unwrap_or_else(|_| {
                this.shared.left(*this.account, *this.ticket);
                Err(this.shared.reject_late(*this.account, *this.since))
            })
        })
    }
}

#[pin_project::pinned_drop]
impl PinnedDrop for Waiter {
    fn drop(self: Pin<&mut Self>) {
        let this = self.project();
        this.answer.close();
        this.shared.left(*this.account, *this.ticket);
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter").field("since", &self.since).finish_non_exhaustive()
    }
}
