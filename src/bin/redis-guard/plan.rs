//! `redis-guard plan`: how many connections a fleet may have.

mod ask;
mod report;

use std::cmp::Reverse;

use clap::Args;
use redis_guard::server::ServerSnapshot;
use redis_guard::sizing::{Outcome, Plan, Surge};

use self::ask::{Asked, Seen, ask};
use self::report::Report;
use crate::cli::{self, Access, Exit, Output, print, print_json};

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// A server to read maxclients, replicas and cluster links from, with one INFO: a URL or host:port; of a
    /// cluster all nodes are asked, and the one with the least room counts [default: REDIS_URL, without
    /// --maxclients]
    url: Option<String>,

    /// The server's ceiling; beside a URL it is the one to plan for
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    maxclients: Option<u64>,

    /// The most instances that run: the autoscaler's maximum; with --serverless, the concurrency
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    instances: u64,

    /// Instances on top during a deployment, a percentage rounded up [default: 0; with --serverless 100%]
    #[arg(long, value_name = "N|P%", value_parser = surge)]
    surge: Option<Surge>,

    /// max_connections of each process [default: 16]
    #[arg(long, value_name = "N", value_parser = at_least_one, conflicts_with = "serverless")]
    pool_size: Option<u64>,

    /// Connections of each process that no pressure takes back: the sum of its endpoints' reserves [default: 2]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    min_limit: Option<u64>,

    /// Processes of each instance that have a pool of their own [default: 1]
    #[arg(long, value_name = "N", value_parser = at_least_one, conflicts_with = "serverless")]
    workers: Option<u64>,

    /// Replicas of the server [default: as the server says, or 0]
    #[arg(long, value_name = "N")]
    replicas: Option<u64>,

    /// Nodes of its cluster, replicas among them [default: as the server says, or none]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    nodes: Option<u64>,

    /// Other clients that are always there: monitoring, scheduled jobs [default: 0]
    #[arg(long, value_name = "N")]
    others: Option<u64>,

    /// Slots to plan nothing on [default: the larger of 2 % of maxclients and 16, a quarter at most]
    #[arg(long, value_name = "N")]
    reserve: Option<u64>,

    /// Instances are sandboxes of a serverless platform, which keep their sockets while frozen
    #[arg(long)]
    serverless: bool,

    /// Connections of each sandbox [default: 1]
    #[arg(long, value_name = "N", value_parser = at_least_one, requires = "serverless")]
    connections: Option<u64>,

    /// How to write it
    #[arg(long, value_enum, default_value = "text")]
    output: Output,

    /// End with 1 where it fits, but less is left than the reserve or one more surge, or a node of the cluster may
    /// have less room than those that told
    #[arg(long)]
    strict: bool,

    #[command(flatten)]
    access: Access,
}

pub(crate) async fn run(args: PlanArgs) -> Result<Exit, String> {
    let asked = match args.server()? {
        None => None,
        Some(url) => match Box::pin(ask(&url, &args.access)).await? {
            Ok(asked) => Some(asked),
            Err(failure) => {
                return Ok(failure.report(args.output));
            }
        },
    };
    let asked = asked.as_ref();
    let (seen, outcome) = match asked {
        Some(asked) => args.tightest(asked)?,
        None => (None, args.plan(None)?.work_out()),
    };
    let report = Report { args: &args, asked, seen, outcome: &outcome };
    let exit = report.exit();
    Ok(match args.output {
        Output::Text => print(&report.text(), exit),
        Output::Json => print_json(&report.json(exit), exit),
    })
}

impl PlanArgs {
    /// Whom to ask, if anybody: who says the ceiling needs no server, whatever the environment names.
    fn server(&self) -> Result<Option<String>, String> {
        if self.url.is_none() && self.maxclients.is_some() {
            return Ok(None);
        }
        let named = cli::servers(self.url.iter().cloned().collect());
        let url = named.and_then(|named| named.into_iter().next());
        let nothing = || format!("{}; or plan without one, with --maxclients <N>", cli::NO_SERVER);
        url.map(Some).ok_or_else(nothing)
    }

    /// Of the nodes of a cluster, the one with the least room.
    fn tightest<'a>(&self, asked: &'a Asked) -> Result<(Option<&'a Seen>, Outcome), String> {
        let mut plans: Vec<_> = asked
            .seen
            .iter()
            .map(|seen| Ok((Some(seen), self.plan(Some(seen))?.work_out())))
            .collect();
        // Those that do not tell are left out where others do.
        if plans.iter().any(Result::is_ok) {
            plans.retain(Result::is_ok);
        }
        let plans = plans.into_iter().collect::<Result<Vec<_>, String>>()?;
        let room = |(_, it): &(_, Outcome)| (it.headroom, Reverse(it.shortfall));
        plans.into_iter().min_by_key(room).ok_or_else(|| "nobody was asked".to_owned())
    }

    fn plan(&self, seen: Option<&Seen>) -> Result<Plan, String> {
        let snapshot = seen.map(|seen| &seen.snapshot);
        let Some(maxclients) = self.maxclients.or(snapshot.and_then(|seen| seen.maxclients)) else {
            let refusal = seen.and_then(|seen| seen.refusal.as_ref());
            let why = refusal.map(|words| format!(" ({words})")).unwrap_or_default();
            return Err(format!(
                "the server does not tell its maxclients{why}: say it with --maxclients N"
            ));
        };
        let mut plan =
            if self.serverless { Plan::serverless(maxclients) } else { Plan::new(maxclients) };
        plan = plan.instances(self.instances);
        if let Some(size) = self.pool_size.or(self.connections) {
            plan = plan.pool_size(usize::try_from(size).unwrap_or(usize::MAX));
        }
        if let Some(floor) = self.min_limit {
            plan = plan.min_limit(usize::try_from(floor).unwrap_or(usize::MAX));
        }
        if let Some(surge) = self.surge {
            plan = plan.surge(surge);
        }
        if let Some(workers) = self.workers {
            plan = plan.workers(workers);
        }
        if let Some(replicas) = self.replicas.or(snapshot.and_then(|seen| seen.connected_replicas))
        {
            plan = plan.replicas(replicas);
        }
        // Two links to each of the others.
        let links = snapshot.and_then(|seen| seen.cluster_connections);
        if let Some(nodes) = self.nodes.or(links.map(|links| links / 2 + 1)) {
            plan = plan.cluster_nodes(nodes);
        }
        plan = plan.kept_by_server(snapshot.map_or(0, ServerSnapshot::kept_slots));
        if let Some(others) = self.others {
            plan = plan.others(others);
        }
        if let Some(reserve) = self.reserve {
            plan = plan.reserve(reserve);
        }
        Ok(plan)
    }
}

fn at_least_one(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("it has to be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("not a whole number".to_owned()),
    }
}

/// `60` or `25%`.
fn surge(text: &str) -> Result<Surge, String> {
    let surge = match text.strip_suffix('%') {
        Some(percent) => percent.trim_end().parse().map(Surge::Percent),
        None => text.parse().map(Surge::Instances),
    };
    surge.map_err(|_| "a number of instances, or a percentage such as 25%".to_owned())
}
