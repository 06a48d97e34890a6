//! An incident, and what the one who is paged does about it: one instance of six leaks connections
//! until Redis is full, and every tool that has to connect is refused as well.
//!
//! ```sh
//! sudo apt-get install -y redis-server
//! cargo run --example on_call --features full                    # a minute; starts its own server
//! cargo run --example on_call --features full -- --seconds 300   # time to look around
//! cargo run --example on_call --features full -- --help
//! ```
//!
//! Everybody is real: a redis-server with 400 slots; `checkout`, six instances with a pool each, from
//! addresses of their own; `worker`, consumers in BLPOP; `search`, a newcomer that is refused and dials
//! again for ever; and `storefront`, three guarded pools of this process, one fleet, with a status page.
//!
//! # What to look for
//! 1. The server fills. Nobody is refused yet: `redis-guard watch` shows who grows.
//! 2. It is full. The doctor is refused like everybody else: it says so, and ends with 3.
//! 3. The same doctor over a connection that a pool holds names the leak, and where it comes from. The
//!    pools do not dial, as there is nothing to be had: their callers take turns, and none fails.
//! 4. The instance is restarted: its slots are free, the newcomer comes in, nothing is wrong.
//!
//! Five minutes of idleness are five seconds here, as the whole incident takes a minute: hence the
//! `--idle-after 5s` of the commands. `/doctor` beside the page asks for the five minutes.

use std::process::ExitCode;

mod args;
mod browser;
mod cast;
mod incident;
mod pictures;
mod storefront;
mod terminal;
mod voice;

#[path = "../common/mod.rs"]
mod common;

/// Where Chromium is; the tests of the status page use the same.
#[path = "../../tests/support/chromium.rs"]
mod chromium;
/// Clients from addresses of their own; the tests of the doctor have the same.
#[path = "../../tests/support/crowd.rs"]
mod crowd;
/// Starts a redis-server for us; the integration tests use the same.
#[path = "../../tests/support/server.rs"]
mod server;

use args::Command;
use common::{Failure, exit_code, until_interrupted};

#[tokio::main]
async fn main() -> ExitCode {
    let done = match args::parse(std::env::args().skip(1)) {
        Ok(Command::Help) => {
            print!("{}", args::HELP);
            Ok(())
        }
        Ok(Command::Run(args)) => until_interrupted(incident::play(&args)).await,
        Err(problem) => Err(format!("{problem}\n\n{}", args::HELP).into()),
    };
    exit_code("on_call", done)
}
