//! What is logged on this thread.
#![allow(dead_code, reason = "every test uses its own part of the support code")]

use std::io;
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;

/// The lines that were logged.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Listens on this thread until the guard is dropped.
    pub(crate) fn listen(&self, level: tracing::Level) -> DefaultGuard {
        let log = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    /// The lines of the crate that contain this.
    pub(crate) fn lines(&self, part: &str) -> Vec<String> {
        let text = self.text();
        let ours = text.lines().filter(|line| line.contains("redis_guard"));
        ours.filter(|line| line.contains(part)).map(str::to_owned).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Does something, on the spot, whenever this message is logged on this thread.
pub(crate) fn at_message(
    message: &'static str,
    action: impl Fn() + Send + Sync + 'static,
) -> DefaultGuard {
    tracing::subscriber::set_default(AtMessage { message, action })
}

struct AtMessage<F> {
    message: &'static str,
    action: F,
}

/// Whether an event's message says so.
struct Says(&'static str, bool);

impl Visit for Says {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.1 |= field.name() == "message" && format!("{value:?}") == self.0;
    }
}

impl<F: Fn() + Send + Sync + 'static> tracing::Subscriber for AtMessage<F> {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut says = Says(self.message, false);
        event.record(&mut says);
        if says.1 {
            (self.action)();
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
