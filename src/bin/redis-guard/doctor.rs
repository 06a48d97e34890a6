//! `redis-guard doctor`.

use std::time::Duration;

use clap::Args;
use redis_guard::doctor::Doctor;

use crate::cli::{self, Access, Exit, Output, duration};

#[derive(Debug, Args)]
#[command(after_help = cli::AFTER_HELP)]
pub(crate) struct DoctorArgs {
    /// The servers: redis://, rediss://, redis+unix://, or host:port. A sentinel leads to the masters that it
    /// watches [default: REDIS_URL]
    #[arg(value_name = "URL")]
    urls: Vec<String>,

    /// Of a sentinel's masters, the one of this name [default: all]
    #[arg(long, value_name = "NAME")]
    master: Option<String>,

    /// User, password, database and TLS for the servers that a sentinel names, such as
    /// rediss://app@any/2; with it REDISCLI_AUTH is the password of this URL alone
    #[arg(long, value_name = "URL")]
    connect_as: Option<String>,

    #[command(flatten)]
    access: Access,

    /// How to write the report
    #[arg(long, value_name = "FORM", value_enum, default_value = "text")]
    output: Output,

    /// End with 1 where there are warnings
    #[arg(long)]
    strict: bool,

    /// The time between the two looks that rejections and churn are told from
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    sample: Duration,

    /// Go on trying for so long where a server does not let us in, and looking where what holds its slots is
    /// too young to be judged
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration)]
    wait: Duration,

    /// From when on a client without a command is idle
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    idle_after: Duration,

    /// How many replicas there should be
    #[arg(long, value_name = "N")]
    expect_replicas: Option<u64>,

    /// How many of the largest holders to list
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
}

pub(crate) async fn run(args: DoctorArgs) -> Result<Exit, String> {
    let urls = cli::servers(args.urls).ok_or(cli::NO_SERVER)?;
    let mut access = args.access.resolve()?;
    if let Some(url) = &args.connect_as {
        access = access.connect_as(url).map_err(|problem| format!("--connect-as: {problem}"))?;
    }
    let mut doctor = Doctor::new(urls)
        .access(access)
        .sample(args.sample)
        .wait(args.wait)
        .idle_after(args.idle_after)
        .top(args.top);
    if let Some(master) = args.master {
        doctor = doctor.master(master);
    }
    if let Some(replicas) = args.expect_replicas {
        doctor = doctor.expect_replicas(replicas);
    }
    let report = doctor.examine().await;
    let exit = Exit::of(report.exit_code(args.strict));
    Ok(match args.output {
        // Colours go where there is a terminal that wants them.
        Output::Text => cli::print(&format!("{report:#}"), exit),
        Output::Json => cli::print_json(&report, exit),
    })
}
