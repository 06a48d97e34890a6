//! A value, and whoever waits for the next one: tokio's `watch`.
//!
//! Its waiters are woken in an order of chance, from a source that nobody can seed. The simulation has to repeat its
//! runs, so the tests of this crate use one with the same methods whose waiters are woken in the order in which they
//! came.

#[cfg(not(test))]
pub(super) use tokio::sync::watch::Sender;

#[cfg(test)]
pub(super) use in_order::Sender;

#[cfg(test)]
mod in_order {
    use std::pin::pin;
    use std::sync::{Arc, PoisonError};

    use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use crate::sync::{Notify, RwLock, RwLockReadGuard};

    #[derive(Debug)]
    pub(in crate::pool) struct Sender<T>(Arc<Shared<T>>);

    #[derive(Debug)]
    pub(in crate::pool) struct Receiver<T> {
        shared: Arc<Shared<T>>,
        /// How many changes it has seen.
        seen: u64,
    }

    /// Nobody sends any more.
    #[derive(Debug)]
    pub(in crate::pool) struct Gone;

    #[derive(Debug)]
    struct Shared<T> {
        value: RwLock<T>,
        changes: AtomicU64,
        changed: Notify,
        sender_is_gone: AtomicBool,
    }

    impl<T> Shared<T> {
        fn read(&self) -> RwLockReadGuard<'_, T> {
            self.value.read().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl<T> Sender<T> {
        pub(in crate::pool) fn new(value: T) -> Self {
            Self(Arc::new(Shared {
                value: RwLock::new(value),
                changes: AtomicU64::new(0),
                changed: Notify::new(),
                sender_is_gone: AtomicBool::new(false),
            }))
        }

        pub(in crate::pool) fn borrow(&self) -> RwLockReadGuard<'_, T> {
            self.0.read()
        }

        pub(in crate::pool) fn send_if_modified(
            &self,
            modify: impl FnOnce(&mut T) -> bool,
        ) -> bool {
            let modified = {
                let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
                let modified = modify(&mut value);
                self.0.changes.fetch_add(u64::from(modified), Ordering::SeqCst);
                modified
            };
            if modified {
                self.0.changed.notify_waiters();
            }
            modified
        }

        pub(in crate::pool) fn send_modify(&self, modify: impl FnOnce(&mut T)) {
            self.send_if_modified(|value| {
                modify(value);
                true
            });
        }

        pub(in crate::pool) fn send_replace(&self, mut value: T) -> T {
            self.send_modify(|old| std::mem::swap(old, &mut value));
            value
        }

        pub(in crate::pool) fn subscribe(&self) -> Receiver<T> {
            let seen = self.0.changes.load(Ordering::SeqCst);
            Receiver { shared: Arc::clone(&self.0), seen }
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.sender_is_gone.store(true, Ordering::SeqCst);
            self.0.changed.notify_waiters();
        }
    }

    impl<T> Receiver<T> {
        pub(in crate::pool) fn mark_unchanged(&mut self) {
            self.seen = self.shared.changes.load(Ordering::SeqCst);
        }

        pub(in crate::pool) fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
            let value = self.shared.read();
            self.seen = self.shared.changes.load(Ordering::SeqCst);
            value
        }

        pub(in crate::pool) async fn changed(&mut self) -> Result<(), Gone> {
            let shared = Arc::clone(&self.shared);
            loop {
                let mut changed = pin!(shared.changed.notified());
                changed.as_mut().enable();
                let changes = shared.changes.load(Ordering::SeqCst);
                if changes != self.seen {
                    self.seen = changes;
                    return Ok(());
                }
                if shared.sender_is_gone.load(Ordering::SeqCst) {
                    return Err(Gone);
                }
                changed.await;
            }
        }

        pub(in crate::pool) async fn wait_for(
            &mut self,
            mut wanted: impl FnMut(&T) -> bool,
        ) -> Result<(), Gone> {
            loop {
                if wanted(&self.borrow_and_update()) {
                    return Ok(());
                }
                self.changed().await?;
            }
        }
    }
}
