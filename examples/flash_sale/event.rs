//! One policy's way through the event.

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::Failure;
use crate::args::Args;
use crate::crew::Crew;
use crate::orders::{Seen, Setup, Word};
use crate::plan::{Plan, STEPS};
use crate::policy::Policy;
use crate::report;
use crate::run::{Record, Run, Sample, TICK, jain};
use crate::target::Target;

/// How often the server may leave us without an answer.
const UNANSWERED: usize = 3;

pub(crate) async fn hold(
    policy: Policy,
    target: &mut Target,
    plan: &Plan,
    args: &Args,
) -> Result<Run, Failure> {
    target.reset().await?;
    let setup = Setup {
        policy,
        url: target.url(),
        fleet: "flash-sale".to_owned(),
        max_connections: plan.max_connections,
        callers: plan.max_connections,
        hold_ms: plan.hold.as_millis().try_into()?,
    };
    let mut crew = Crew::start(&setup, plan.workers).await?;
    let cpu_before = (crew.cpu_time().await?, target.cpu_time());

    let started = Instant::now();
    let mut ticks = interval_at(started + TICK, TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut samples: Vec<Sample> = Vec::new();
    let mut live = Vec::new();
    let mut seen: Vec<Seen> = (0..plan.workers).map(|_| Seen::default()).collect();
    let (mut step, mut unanswered) = (0, 0);
    loop {
        let now = started.elapsed();
        if step < STEPS.len() && now >= plan.offset(step) {
            crew.open(live.len()..STEPS[step]).await?;
            live.resize(STEPS[step], 0);
            step += 1;
        }
        if now >= plan.length() {
            break;
        }
        crew.look().await?;
        ticks.tick().await;
        while let Some((worker, word)) = crew.heard()? {
            let Word::Seen(word) = word else { continue };
            for &(app, connections) in &word.live {
                live[app] = connections;
            }
            seen[worker] = word;
        }
        // Blocks, but nothing else is to be done here meanwhile.
        let reading = match target.read() {
            Ok(reading) => reading,
            // A machine that is busy with other things may stall for seconds. Once or twice.
            Err(trouble) if unanswered < UNANSWERED => {
                eprintln!("{:<15}{trouble}", policy.as_str());
                unanswered += 1;
                continue;
            }
            Err(trouble) => return Err(trouble),
        };
        let (at, jain) = (started.elapsed(), jain(&live));
        let sample = Sample { at, used: reading.used, rejected: reading.rejected, jain };
        if !args.quiet && samples.len() % 10 == 9 {
            eprintln!("{}", report::moment(policy, &sample, live.len(), &seen));
        }
        samples.push(sample);
    }

    let cpu = (crew.cpu_time().await?, target.cpu_time());
    let commands = target.commands()?;
    let done = crew.stop().await?;
    let record = Record {
        samples,
        live_end: live,
        done,
        commands,
        client_cpu: cpu.0.zip(cpu_before.0).map(|(after, before)| after.saturating_sub(before)),
        server_cpu: cpu.1.zip(cpu_before.1).map(|(after, before)| after.saturating_sub(before)),
    };
    Ok(Run::new(policy, plan, record))
}
