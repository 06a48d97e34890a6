//! `redis-guard doctor`.

use clap::Args;

use crate::cli::Exit;

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {}

pub(crate) async fn run(args: DoctorArgs) -> Result<Exit, String> {
    let _ = args;
    Ok(Exit::Fine)
}
