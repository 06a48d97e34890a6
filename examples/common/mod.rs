//! What the examples that start servers have in common.
#![allow(dead_code, reason = "each example uses a part of it")]

pub(crate) mod bars;
pub(crate) mod numbers;

use std::path::Path;
use std::process::ExitCode;
use std::{fs, io};

use tokio::select;
use tokio::signal::unix::{SignalKind, signal};

/// What `main` prints when something could not be done. These are for people, so text is enough.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The end of `main`; a failure is printed with its causes.
pub(crate) fn exit_code(example: &str, done: Result<(), Failure>) -> ExitCode {
    let Err(failure) = done else { return ExitCode::SUCCESS };
    eprintln!("{example}: {failure}");
    let mut cause = failure.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
        cause = error.source();
    }
    ExitCode::FAILURE
}

/// Returns in any case, so that the servers and all who use them are dropped, which ends them.
pub(crate) async fn until_interrupted(
    run: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    select! {
        done = run => done,
        _ = interrupt.recv() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
    }
}

/// Better to know before the run than after it.
pub(crate) fn writable(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::OpenOptions::new().create(true).append(true).open(path)?;
    Ok(())
}
