//! What goes by a pool's budgets and is not known to it.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, Weak};

use crate::Endpoint;

/// What goes by a pool's budgets beside its leases: the guard that was made of it.
pub(crate) trait Companion: Any + Send + Sync {
    /// Its calls in flight.
    fn calls_in_flight(&self) -> HashMap<Endpoint, usize>;
}

/// Stands for a companion before there is one.
struct Nobody;

pub(super) fn nobody() -> Mutex<Weak<dyn Companion>> {
    let nobody: Weak<Nobody> = Weak::new();
    Mutex::new(nobody)
}

impl Companion for Nobody {
    fn calls_in_flight(&self) -> HashMap<Endpoint, usize> {
        HashMap::new()
    }
}

impl fmt::Debug for dyn Companion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Companion")
    }
}
