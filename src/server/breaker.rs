//! The breaker, in an operator's hands.

use std::fmt;
use std::sync::Arc;

use super::gate::{Forced, Overridable};
use crate::BreakerState;

/// The breaker of a pool or a guard, in an operator's hands; see
/// [`GuardedPool::breaker`](crate::GuardedPool::breaker) and
/// [`Guard::breaker`](crate::Guard::breaker).
///
/// An override is of that pool or guard alone; other pools at the same server go on by its schedule.
///
/// ```
/// use redis_guard::{BreakerState, GuardedPool};
///
/// # fn main() -> Result<(), redis_guard::BuildError> {
/// let pool = GuardedPool::builder("redis://127.0.0.1:6379").build()?;
/// pool.breaker().force_open(); // no dials until further notice
/// assert_eq!(pool.breaker().state(), BreakerState::Open);
/// pool.breaker().auto(); // as the server's answers say
/// assert_eq!(pool.breaker().state(), BreakerState::Closed);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct BreakerHandle(Arc<dyn Overridable>);

impl BreakerHandle {
    pub(crate) fn of(overridable: Arc<dyn Overridable>) -> Self {
        Self(overridable)
    }

    /// The state, an override included.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        self.0.breaker_state()
    }

    /// Stops dialing until [`auto`](Self::auto). Live connections go on being served; with none
    /// live, callers are refused at once.
    pub fn force_open(&self) {
        Arc::clone(&self.0).force(Some(Forced::Open));
    }

    /// Lets callers wait for the next dial whatever happened before, until [`auto`](Self::auto).
    /// The back-off between dials stays.
    pub fn force_closed(&self) {
        Arc::clone(&self.0).force(Some(Forced::Closed));
    }

    /// Takes an override back.
    pub fn auto(&self) {
        Arc::clone(&self.0).force(None);
    }
}

impl fmt::Debug for BreakerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerHandle").field("state", &self.state()).finish()
    }
}
