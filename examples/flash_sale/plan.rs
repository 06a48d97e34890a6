//! How large the event is, and how long.

use std::process::Command;
use std::thread::available_parallelism;
use std::time::Duration;

use crate::Failure;
use crate::args::Args;

/// The event in full size: a pool of 50 for 10,000 slots.
const SLOTS: u32 = 10_000;
/// One connection a pool for so many slots; 240 pools then want 12 slots where there are 10.
pub(crate) const SLOTS_PER_CONNECTION: u32 = 200;

/// App servers at the start, and after each step of the autoscaler.
pub(crate) const STEPS: [usize; 5] = [30, 90, 160, 200, 240];

/// How long a caller keeps its connection on average, at most. If it kept it for longer, whoever waits
/// for one of a newcomer's first two connections would lose patience.
const LONGEST_HOLD: Duration = Duration::from_millis(500);

/// Files a process needs apart from its connections, with room to spare.
const OTHER_FILES: usize = 128;
const WORKERS: usize = 4;
/// Requests a second that take less than half of a core, of client and server together.
const RATE_PER_CORE: u32 = 10_000;
/// Where there are many cores, the server still has one.
const RATE_MAX: u32 = 40_000;

pub(crate) struct Plan {
    pub(crate) maxclients: u32,
    /// Of each pool; it has as many callers.
    pub(crate) max_connections: usize,
    pub(crate) workers: usize,
    pub(crate) hold: Duration,
    /// How long each of [`STEPS`] lasts.
    pub(crate) lengths: [Duration; STEPS.len()],
    /// How long idle pools are observed, for each policy.
    pub(crate) cost_length: Duration,
    /// What the size was limited by.
    pub(crate) limited_by: String,
}

impl Plan {
    pub(crate) fn new(args: &Args) -> Result<Self, Failure> {
        let files = open_files()?;
        let cores = available_parallelism().map_or(1, usize::from);
        let rate = RATE_PER_CORE.saturating_mul(u32::try_from(cores)?).min(RATE_MAX);
        let rate = args.rate.unwrap_or(rate);

        // One server process holds them all, and has to keep 32 files for itself.
        let by_files = u32::try_from(files.saturating_sub(OTHER_FILES)).unwrap_or(u32::MAX);
        let by_cores = u32::try_from(u128::from(rate) * LONGEST_HOLD.as_millis() / 1_000)?;
        let share = |slots: u32| format!("{} %", 100 * slots / SLOTS);
        let (slots, limited_by) = match args.maxclients {
            Some(slots) if slots > by_files => {
                return Err(format!(
                    "--maxclients {slots}: a process may have {files} open files here"
                )
                .into());
            }
            Some(slots) => (slots, format!("{} of full size, as asked for", share(slots))),
            None if by_files < by_cores.min(SLOTS) => (
                by_files,
                format!("{} of full size: {files} open files a process", share(by_files)),
            ),
            None if by_cores < SLOTS => {
                (by_cores, format!("{} of full size: {cores} core", share(by_cores)))
            }
            None => (SLOTS, "full size".to_owned()),
        };
        let per_pool = slots / SLOTS_PER_CONNECTION;
        if per_pool < 2 {
            return Err(format!("{files} open files are too few for this example").into());
        }
        let maxclients = per_pool * SLOTS_PER_CONNECTION;
        let max_connections = usize::try_from(per_pool)?;

        let sockets = STEPS[STEPS.len() - 1] * max_connections;
        // Dealt out evenly, but for one pool.
        let room = files.saturating_sub(OTHER_FILES + max_connections).max(1);
        let needed = sockets.div_ceil(room);
        let workers = args.workers.unwrap_or(WORKERS.max(needed));
        if workers < needed {
            return Err(format!("--workers {workers}: {sockets} sockets take {needed}").into());
        }
        let seconds = if args.quick { [2, 2, 2, 3, 7] } else { [3, 3, 4, 6, 10] };
        Ok(Self {
            maxclients,
            max_connections,
            workers,
            hold: Duration::from_secs(1) * maxclients / rate,
            lengths: seconds.map(Duration::from_secs),
            cost_length: Duration::from_secs(if args.quick { 4 } else { 6 }),
            limited_by,
        })
    }

    /// App servers in the end.
    pub(crate) fn apps(&self) -> usize {
        STEPS[STEPS.len() - 1]
    }

    /// When a step begins.
    pub(crate) fn offset(&self, step: usize) -> Duration {
        self.lengths[..step].iter().sum()
    }

    pub(crate) fn length(&self) -> Duration {
        self.lengths.iter().sum()
    }
}

/// The files a process may open once it has raised its soft limit, as the server does by itself,
/// and as [`raised`] does for our workers.
fn open_files() -> Result<usize, Failure> {
    let shell = Command::new("sh").args(["-c", "ulimit -H -n"]).output()?;
    let text = String::from_utf8_lossy(&shell.stdout);
    match text.trim() {
        "unlimited" => Ok(1 << 20),
        number => Ok(number.parse().map_err(|e| format!("`ulimit -H -n` said {number:?}: {e}"))?),
    }
}

/// A shell that raises its limit of open files and then becomes the program that its arguments
/// name. Setting limits takes `unsafe` in Rust, or one more crate.
pub(crate) fn raised() -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"ulimit -S -n "$(ulimit -H -n)" 2>/dev/null; exec "$@""#, "sh"]);
    shell
}
