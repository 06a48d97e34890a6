//! What is printed, and when it was.

use std::io::{IsTerminal, stdout};

use redis_guard::doctor::Report;
use tokio::time::Instant;

/// Writes to stdout; in colours where that is a terminal, and nobody asked for none.
pub(crate) struct Voice {
    began: Instant,
    colours: bool,
}

impl Voice {
    pub(crate) fn new() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { began: Instant::now(), colours: stdout().is_terminal() && !plain }
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// A moment that matters, and what it is.
    pub(crate) fn moment(&self, heading: &str, text: &str) {
        let seconds = self.began.elapsed().as_secs();
        let (bold, off) = if self.colours { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        println!("\n{seconds:>3} s  {bold}{heading}{off} {text}");
    }

    /// More of it.
    pub(crate) fn and(&self, text: &str) {
        println!("       {text}");
    }

    /// What somebody at a terminal would have typed.
    pub(crate) fn typed(&self, command: &str) {
        let (dim, off) = if self.colours { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        println!("\n{dim}{command}{off}");
    }

    pub(crate) fn report(&self, report: &Report) {
        print!("{}", self.text(report));
        println!("\nexit code {}", report.exit_code(false));
    }

    /// Of a report that is like an earlier one only what it comes to.
    pub(crate) fn verdict(&self, report: &Report) {
        let text = self.text(report);
        // The server, and then the verdicts, each with an empty line after it.
        println!("{}", text.split("\n\n").take(2).collect::<Vec<_>>().join("\n\n"));
        println!("\nexit code {}", report.exit_code(false));
    }

    fn text(&self, report: &Report) -> String {
        if self.colours { format!("{report:#}") } else { report.to_string() }
    }
}
