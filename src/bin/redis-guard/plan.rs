//! `redis-guard plan`.

use clap::Args;

use crate::cli::Exit;

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {}

pub(crate) async fn run(args: PlanArgs) -> Result<Exit, String> {
    let _ = args;
    Ok(Exit::Fine)
}
