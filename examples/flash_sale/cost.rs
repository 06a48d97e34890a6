//! What watch and lease cost: CPU time of idle pools and of their server, with and without.

use std::time::Duration;

use tokio::time::sleep;

use crate::Failure;
use crate::args::Args;
use crate::common::numbers::float;
use crate::crew::Crew;
use crate::orders::Setup;
use crate::plan::Plan;
use crate::policy::Policy;
use crate::run::{Cost, Run};
use crate::target::Target;

/// The first beats come at once, and the registry gets to know its members; then a fleet at rest beats ever more
/// rarely, until they are [`FLEET_INTERVAL`] apart.
const SETTLE: Duration = Duration::from_secs(4);
const FLEET_SETTLES: Duration = Duration::from_secs(60);

/// The longest interval of a fleet's heartbeats: in less, many a member has none.
const FLEET_INTERVAL: Duration = Duration::from_secs(30);

/// Percent of a core of all workers, and of the server.
type Cpu = (f64, f64);

/// Fills in the runs' costs.
pub(crate) async fn measure(
    runs: &mut [Run],
    target: &mut Target,
    plan: &Plan,
    args: &Args,
) -> Result<(), Failure> {
    // These ask the server nothing of their own.
    for run in runs.iter_mut().filter(|run| !run.policy.watches()) {
        run.cost = Some(Cost::default());
    }
    if !runs.iter().any(|run| run.policy.watches()) {
        return Ok(());
    }
    let Some(without) = idle(Policy::Gate, target, plan, args).await? else { return Ok(()) };
    for run in runs.iter_mut().filter(|run| run.policy.watches()) {
        let with = idle(run.policy, target, plan, args).await?;
        run.cost = with.map(|with| Cost {
            client: (with.0 - without.0) / float(plan.apps() as u64),
            server: with.1 - without.1,
        });
    }
    Ok(())
}

/// What idle pools and their server use.
async fn idle(
    policy: Policy,
    target: &mut Target,
    plan: &Plan,
    args: &Args,
) -> Result<Option<Cpu>, Failure> {
    let (settles, length) = match policy.is_fleet() && !args.quick {
        true => (FLEET_SETTLES, FLEET_INTERVAL),
        false => (SETTLE, plan.cost_length),
    };
    if !args.quiet {
        let seconds = length.as_secs();
        eprintln!("{:<15} {} idle pools for {seconds} s …", policy.as_str(), plan.apps());
    }
    target.reset().await?;
    let setup = Setup {
        policy,
        url: target.url(),
        fleet: "flash-sale".to_owned(),
        max_connections: plan.max_connections,
        callers: 0,
        hold_ms: 0,
    };
    let mut crew = Crew::start(&setup, plan.workers).await?;
    crew.open(0..plan.apps()).await?;
    sleep(settles).await;
    let before = (crew.cpu_time().await?, target.cpu_time());
    sleep(length).await;
    let after = (crew.cpu_time().await?, target.cpu_time());
    crew.stop().await?;
    let used = |after: Option<Duration>, before: Option<Duration>| {
        let used = after?.saturating_sub(before?);
        Some(100.0 * used.as_secs_f64() / length.as_secs_f64())
    };
    Ok(used(after.0, before.0).zip(used(after.1, before.1)))
}
