//! `redis-guard`: for the one who is paged.

mod cli;
mod doctor;
mod generated;
mod plan;
mod watch;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, Exit};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // To stderr where it is an error, to stdout where help was asked for.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Fine.into() };
        }
    };
    cli.log();
    let exit = match cli.command {
        Command::Doctor(args) => doctor::run(args).await,
        Command::Plan(args) => plan::run(*args).await,
        Command::Watch(args) => watch::run(args).await,
        Command::Completions { shell } => Ok(generated::completions(shell)),
        Command::Man { command } => generated::man(command.as_deref()),
    };
    match exit {
        Ok(exit) => exit.into(),
        Err(problem) => {
            cli::complain(&problem);
            Exit::Usage.into()
        }
    }
}
