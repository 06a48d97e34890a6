//! The keyboard.
//!
//! Not the terminal's raw mode, in which Ctrl-C and Ctrl-Z are keys like others: lines and echo are switched off,
//! and signals stay.

use std::io::{self, IsTerminal, Read};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::process::getpgrp;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr,
};
use tokio::sync::mpsc;

/// The terminal as we found it, while it is not.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Up,
    Down,
}

/// From now on keys come one by one, and are not shown; false where stdin is no terminal, or somebody else has
/// it: who changes it then is stopped.
pub(super) fn take() -> bool {
    let stdin = io::stdin();
    let is_ours = || tcgetpgrp(&stdin).is_ok_and(|foreground| foreground == getpgrp());
    if !stdin.is_terminal() || !is_ours() {
        return false;
    }
    let Ok(found) = tcgetattr(&stdin) else { return false };
    let mut wanted = found.clone();
    wanted.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
    wanted.special_codes[SpecialCodeIndex::VMIN] = 1;
    wanted.special_codes[SpecialCodeIndex::VTIME] = 0;
    before().get_or_insert(found);
    tcsetattr(&stdin, OptionalActions::Now, &wanted).is_ok()
}

/// Gives the terminal back as it was.
pub(super) fn give_back() {
    if let Some(found) = before().take() {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &found);
    }
}

fn before() -> MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The keys that are pressed. Read by a thread: a read cannot be given up, and does not keep the process from
/// ending there.
pub(super) fn pressed() -> mpsc::UnboundedReceiver<Key> {
    let (sender, keys) = mpsc::unbounded_channel();
    thread::spawn(move || {
        let mut last = [0; 2];
        for byte in io::stdin().lock().bytes().map_while(Result::ok) {
            let key = match (last, byte) {
                // ESC [ A, or ESC O A where the terminal sends application keys.
                ([0x1b, b'[' | b'O'], b'A') => Some(Key::Up),
                ([0x1b, b'[' | b'O'], b'B') => Some(Key::Down),
                (_, b'q' | b'Q') => Some(Key::Quit),
                (_, b'k') => Some(Key::Up),
                (_, b'j') => Some(Key::Down),
                _ => None,
            };
            last = [last[1], byte];
            if key.is_some_and(|key| sender.send(key).is_err()) {
                return;
            }
        }
    });
    keys
}
