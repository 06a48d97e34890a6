//! The breaker, in an operator's hands.

use std::fmt;
use std::sync::Arc;

use super::core::Core;
use crate::server::gate::{Gate, Transition};
use crate::{BreakerState, Guard};

/// The breaker of a pool or a guard, in an operator's hands; see
/// [`GuardedPool::breaker`](crate::GuardedPool::breaker) and [`Guard::breaker`].
#[derive(Clone)]
pub struct BreakerHandle(pub(super) Owner);

#[derive(Clone)]
pub(super) enum Owner {
    Pool(Arc<Core>),
    Guard(Guard),
}

impl BreakerHandle {
    pub(crate) fn of_guard(guard: Guard) -> Self {
        Self(Owner::Guard(guard))
    }

    /// The state, an override included.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        match &self.0 {
            Owner::Pool(core) => core.lock().gate.state(),
            Owner::Guard(guard) => guard.breaker_state(),
        }
    }

    /// Stops dialing until [`auto`](Self::auto). Live connections go on being served; with none
    /// live, callers are refused at once.
    pub fn force_open(&self) {
        self.force(Gate::force_open);
    }

    /// Lets callers wait for the next dial whatever happened before, until [`auto`](Self::auto).
    /// The back-off between dials stays.
    pub fn force_closed(&self) {
        self.force(Gate::force_closed);
    }

    /// Takes an override back.
    pub fn auto(&self) {
        self.force(Gate::auto);
    }

    fn force(&self, change: fn(&mut Gate) -> Option<Transition>) {
        match &self.0 {
            Owner::Guard(guard) => guard.force(change),
            Owner::Pool(core) => {
                let transition = core.change(|state| change(&mut state.gate));
                core.schedule_changed.notify_one();
                core.progress.notify_waiters();
                core.announce(transition);
            }
        }
    }
}

impl fmt::Debug for BreakerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerHandle").field("state", &self.state()).finish()
    }
}
