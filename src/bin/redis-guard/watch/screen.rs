//! Where frames go: a live terminal, or whatever else stdout is.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::queue;
use crossterm::style::Print;
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
    LeaveAlternateScreen, size,
};

use super::state::State;
use super::{json, keys, view};
use crate::cli::Output;

/// Where nobody says how wide it is.
const WIDTH: usize = 100;

/// The terminal is not as we found it.
static ENTERED: AtomicBool = AtomicBool::new(false);

#[derive(Debug)]
pub(super) struct Screen {
    kind: Kind,
    colour: bool,
    has_keys: bool,
    frames: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Live,
    Blocks,
    Json,
}

impl Screen {
    /// One frame, or one after the other.
    pub(super) fn blocks(output: Output) -> Self {
        let kind = if output == Output::Json { Kind::Json } else { Kind::Blocks };
        Self { kind, colour: colour(), has_keys: false, frames: 0 }
    }

    /// The alternate screen where stdout is a terminal that has one, until this is dropped.
    pub(super) fn live(output: Output) -> io::Result<Self> {
        let mut screen = Self::blocks(output);
        if screen.kind == Kind::Blocks && is_terminal() {
            screen.kind = Kind::Live;
            restore_on_panic();
            screen.enter()?;
        }
        Ok(screen)
    }

    /// True where keys are heard.
    pub(super) const fn has_keys(&self) -> bool {
        self.has_keys
    }

    /// Takes the terminal, also again after it was left.
    fn enter(&mut self) -> io::Result<()> {
        if self.kind != Kind::Live || ENTERED.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.has_keys = keys::take();
        let mut bytes = Vec::new();
        queue!(bytes, EnterAlternateScreen, Hide, Clear(ClearType::All))?;
        write(&bytes)
    }

    /// Ctrl-Z: the shell gets its own screen, and we ours when we go on. The default action of the
    /// signal would leave the shell in ours.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        leave();
        let stop = format!("kill -STOP {}", std::process::id());
        std::process::Command::new("sh").args(["-c", &stop]).status()?;
        self.enter()
    }

    /// A write may block for as long as a reader takes its time, and signals must be heard
    /// meanwhile.
    pub(super) async fn show(&mut self, state: &State, exit_code: Option<u8>) -> io::Result<()> {
        let mut bytes = Vec::new();
        match self.kind {
            Kind::Live => self.paint(state, &mut bytes)?,
            Kind::Json => writeln!(bytes, "{}", json::object(state, exit_code))?,
            Kind::Blocks => {
                if self.frames > 0 {
                    writeln!(bytes)?;
                }
                let width = if is_terminal() { terminal_size().0 } else { WIDTH };
                for line in view::view(state, width, usize::MAX, self.colour) {
                    writeln!(bytes, "{line}")?;
                }
            }
        }
        self.frames += 1;
        let live = self.kind == Kind::Live;
        let write = move || {
            let mut stdout = io::stdout().lock();
            // No frame after the terminal was given back.
            if live && !ENTERED.load(Ordering::SeqCst) {
                return Ok(());
            }
            stdout.write_all(&bytes)?;
            stdout.flush()
        };
        tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
    }

    /// Over what is there, so that nothing flickers; in one write, and as one update where the
    /// terminal knows that.
    fn paint(&self, state: &State, bytes: &mut Vec<u8>) -> io::Result<()> {
        let (width, height) = terminal_size();
        queue!(bytes, BeginSynchronizedUpdate)?;
        let mut row = 0;
        for line in view::view(state, width, height, self.colour) {
            queue!(bytes, MoveTo(0, row), Print(line), Clear(ClearType::UntilNewLine))?;
            row += 1;
        }
        if usize::from(row) < height {
            queue!(bytes, MoveTo(0, row), Clear(ClearType::FromCursorDown))?;
        }
        queue!(bytes, EndSynchronizedUpdate)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Gives the terminal back as it was.
pub(super) fn leave() {
    if ENTERED.swap(false, Ordering::SeqCst) {
        let mut bytes = Vec::new();
        let _ = queue!(bytes, EndSynchronizedUpdate, Show, LeaveAlternateScreen);
        let _ = write(&bytes);
        keys::give_back();
    }
}

/// A message is lost in the alternate screen, and a task that panicked would not end the process.
fn restore_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        leave();
        before(info);
        std::process::exit(101);
    }));
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

fn is_terminal() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

fn colour() -> bool {
    is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A terminal that hides its size says 0.
fn terminal_size() -> (usize, usize) {
    match size() {
        Ok((width, height)) if width > 0 && height > 0 => (width.into(), height.into()),
        _ => (80, 24),
    }
}
