//! A node's background tasks: where they run, and how they are started.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::Handle;

use super::store::Connection;

pub(super) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How the tasks of an `N` are made. The node starts them, and they stand above it.
pub(super) struct Starters<N> {
    /// Dials while a connection is wanted.
    pub(super) dialer: fn(N) -> Task,
    /// Sweeps and watches until the pool is closed and empty.
    pub(super) maintenance: fn(N) -> Task,
    /// Asks a connection whether it works, and puts it back or closes it.
    pub(super) check: fn(N, Connection) -> Task,
}

impl<N> Clone for Starters<N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<N> Copy for Starters<N> {}

impl<N> fmt::Debug for Starters<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Starters")
    }
}

/// Where tasks run.
#[derive(Debug)]
pub(super) struct Runtime {
    /// The pool's own.
    own: Option<Handle>,
    /// The one that was last seen.
    last: Mutex<Option<Handle>>,
}

impl Runtime {
    pub(super) fn new(own: Option<Handle>) -> Self {
        Self { own, last: Mutex::new(None) }
    }

    /// Spawns on the pool's own runtime; where it has none, on this thread's, or on the last one that was
    /// seen: a lease may be dropped on a thread that is in none. False, and the task is dropped, if there
    /// is none.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        // In a model there is none.
        #[cfg(all(test, guard_loom))]
        if true {
            crate::sync::model::spawn(task);
            return true;
        }
        if let Some(own) = &self.own {
            drop(own.spawn(task));
            return true;
        }
        let runtime = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(current) = Handle::try_current() {
                *last = Some(current);
            }
            last.clone()
        };
        runtime.inspect(|runtime| drop(runtime.spawn(task))).is_some()
    }
}
