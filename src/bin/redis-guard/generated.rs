//! What is made of the command line's own description: completions for shells, and man pages.

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::{self, Cli, Exit};

const NAME: &str = "redis-guard";

pub(crate) fn completions(shell: Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    // Its script for bash takes a hyphen in the name for the beginning of a subcommand in some places, and not in
    // others (clap_complete 4.6.12).
    let script = String::from_utf8_lossy(&script).replace("redis__subcmd__guard", "redis__guard");
    cli::print(&script, Exit::Fine)
}

/// The page of one command, or of the whole.
pub(crate) fn man(command: Option<&str>) -> Result<Exit, String> {
    let mut all = Cli::command();
    all.build();
    let page = match command {
        None => all,
        Some(name) => {
            let found = all.find_subcommand(name);
            found.ok_or_else(|| format!("there is no command {name:?}"))?.clone()
        }
    };
    let mut text = Vec::new();
    let rendered = Man::new(page).render(&mut text);
    rendered.map_err(|error| error.to_string())?;
    Ok(cli::print(&String::from_utf8_lossy(&text), Exit::Fine))
}
