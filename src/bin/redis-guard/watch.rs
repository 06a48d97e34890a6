//! `redis-guard watch`.

use clap::Args;

use crate::cli::Exit;

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {}

pub(crate) async fn run(args: WatchArgs) -> Result<Exit, String> {
    let _ = args;
    Ok(Exit::Fine)
}
