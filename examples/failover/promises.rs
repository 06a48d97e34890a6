//! What redis-guard says of itself, checked.

use std::time::Duration;

use crate::Failure;
use crate::common::numbers::pretty;
use crate::outcome::Run;

/// From the sentinels' word on.
const WRITES_BACK_WITHIN: Duration = Duration::from_secs(1);
/// Dials of the process that may come to nothing in a second.
const FAILED_IN_A_SECOND: u64 = 3;

/// # Errors
/// What was not kept.
pub(crate) fn kept(runs: &[Run]) -> Result<(), Failure> {
    let ours = runs.iter().filter(|run| run.name.starts_with("redis-guard"));
    let broken: Vec<_> = ours.flat_map(broken).collect();
    if broken.is_empty() { Ok(()) } else { Err(broken.join("\n          ").into()) }
}

fn broken(run: &Run) -> Vec<String> {
    let mut broken = Vec::new();
    for outcome in &run.scenarios {
        let mut say = |what: String| {
            broken.push(format!("{}, {}: {what}", run.name, outcome.times.scenario.title()));
        };
        match outcome.writes_back {
            Some(time) if time <= WRITES_BACK_WITHIN => {}
            Some(time) => say(format!("a pool wrote again only {} after the word", pretty(time))),
            None => say("a pool never wrote again".to_owned()),
        }
        if outcome.failed_in_a_second > FAILED_IN_A_SECOND {
            say(format!("{} dials failed in one second", outcome.failed_in_a_second));
        }
        if let Some(time) = outcome.last_lost.filter(|time| *time > WRITES_BACK_WITHIN) {
            say(format!("a write went to the old master {} after the word", pretty(time)));
        }
    }
    broken
}
