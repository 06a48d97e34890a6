//! `redis-guard watch`.

mod json;
mod keys;
mod poller;
mod screen;
mod server;
mod state;
mod style;
mod view;

use std::io;
use std::time::Duration;

use clap::Args;
use redis_guard::doctor::Target;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::cli::{self, Access, Exit, Output, duration};
use keys::Key;
use poller::Poller;
use screen::Screen;
use server::Link;
use state::{State, Update};

/// How long a frame waits for the servers' answers, where the interval is not shorter: longer than
/// a round trip across a continent, too short to be noticed.
const GRACE: Duration = Duration::from_millis(250);

/// POSIX gives it no number; tokio gives it no name.
const SIGTSTP: i32 = if cfg!(target_os = "linux") { 20 } else { 18 };

#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct WatchArgs {
    /// Servers to watch, redis://host:6379 or host:port; the worst is shown first. One node of a cluster names
    /// the others [default: REDIS_URL]
    #[arg(value_name = "URL")]
    urls: Vec<String>,

    /// The time between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval_of)]
    interval: Duration,

    /// Look twice, an interval apart, print what there is to see, and end
    #[arg(long)]
    once: bool,

    /// End after so many frames
    #[arg(long, value_name = "N", conflicts_with = "once", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,

    /// Text, or one line of JSON an interval
    #[arg(long, value_enum, default_value = "text")]
    output: Output,

    /// The holders, and the members of a fleet, that are listed at most
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,

    /// The fleet whose members are listed; without it, those found among the first 20,000 keys
    #[arg(long, value_name = "NAME")]
    fleet: Option<String>,

    /// A connection without a command for so long is idle
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration)]
    idle_after: Duration,

    #[command(flatten)]
    access: Access,
}

const AFTER_HELP: &str = "\
On a terminal: q ends it, the arrows up and down look at one server of several.

One connection a server, opened once and kept, so that it still works when the server is full. When
it is lost, it is dialed again with back-off and jitter, one dial at a time.

CLIENT LIST and the fleet's registry are read at most once an interval, and less often where that
would take more than 1 % of the server's time.

Not on a terminal, a block of text is printed each interval; with --output json, one object a line.

Exit codes: 0 fine. With --once also: 3 a server could not be connected to, 2 a server refused
connections between the two looks or has no slot left (the one that watch itself holds is taken).
64 wrong usage. Without --once, a server that cannot be reached is tried again until Ctrl-C.";

/// A shorter interval would make the watch a load of its own.
fn interval_of(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if interval < Duration::from_millis(100) {
        Err("shorter than 100ms".to_owned())
    } else {
        Ok(interval)
    }
}

pub(crate) async fn run(args: WatchArgs) -> Result<Exit, String> {
    let access = args.access.resolve()?;
    let urls = cli::servers(args.urls.clone()).ok_or(cli::NO_SERVER)?;
    let target = |(at, url): (usize, &String)| {
        Target::parse(url, &access).map_err(|why| format!("URL no. {}: {why}", at + 1))
    };
    let targets = urls.iter().enumerate().map(target).collect::<Result<Vec<_>, _>>()?;
    let addresses = targets.iter().map(|target| target.server().to_string());
    let state = State::new(addresses, args.interval, args.top, args.fleet.clone());
    let (sender, updates) = mpsc::channel(64);
    let poller = |(server, target)| Poller::new(server, target, &args, sender.clone());
    let pollers: Vec<Poller> = targets.into_iter().enumerate().map(poller).collect();
    // The updates end when the last poller does.
    drop(sender);
    let stop = Stop::new().map_err(|error| error.to_string())?;
    let watching = async {
        if args.once {
            once(state, pollers, updates, &args).await
        } else {
            live(state, pollers, updates, &args).await
        }
    };
    let ended = tokio::select! {
        ended = watching => ended,
        () = stop.asked() => {
            screen::leave();
            // Not by returning, which would wait for a write that a reader holds up.
            std::process::exit(Exit::Fine as i32);
        }
    };
    match ended {
        Ok(exit) => Ok(exit),
        // Whoever read the output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Fine),
        Err(error) => {
            eprintln!("redis-guard: the output cannot be written: {error}");
            Ok(Exit::Failed)
        }
    }
}

type Receiver = mpsc::Receiver<(usize, Update)>;

async fn once(
    mut state: State,
    pollers: Vec<Poller>,
    mut updates: Receiver,
    args: &WatchArgs,
) -> io::Result<Exit> {
    for poller in pollers {
        tokio::spawn(poller.run_once());
    }
    while let Some((server, update)) = updates.recv().await {
        let looked = matches!(update, Update::Answered(_));
        state.apply(server, update);
        if looked {
            state.servers[server].close_round();
        }
    }
    for server in &state.servers {
        if let Link::Down(down) = &server.link {
            eprintln!(
                "redis-guard: {}: {}",
                style::clean(&server.address),
                style::clean(&down.said)
            );
        }
    }
    let exit = state.exit();
    Screen::blocks(args.output).show(&state, Some(exit as u8)).await?;
    Ok(exit)
}

async fn live(
    mut state: State,
    pollers: Vec<Poller>,
    mut updates: Receiver,
    args: &WatchArgs,
) -> io::Result<Exit> {
    let (call, rounds) = watch::channel(0);
    for poller in pollers {
        tokio::spawn(poller.run(rounds.clone()));
    }
    let mut screen = Screen::live(args.output)?;
    state.has_keys = screen.has_keys();
    let mut keys = state.has_keys.then(keys::pressed);
    let mut suspended = signal(SignalKind::from_raw(SIGTSTP))?;
    let mut ticks = interval(args.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for round in 1.. {
        loop {
            tokio::select! {
                biased;
                Some((server, update)) = updates.recv() => state.apply(server, update),
                _ = suspended.recv() => screen.suspend()?,
                Some(key) = next_key(keys.as_mut()) => match key {
                    Key::Quit => return Ok(Exit::Fine),
                    Key::Up | Key::Down => {
                        state.choose(key == Key::Down);
                        screen.show(&state, None).await?;
                    }
                },
                _ = ticks.tick() => break,
            }
        }
        call.send_replace(round);
        state.asked(round);
        let deadline = Instant::now() + args.interval.min(GRACE);
        while !state.is_complete(round) {
            match timeout_at(deadline, updates.recv()).await {
                Ok(Some((server, update))) => state.apply(server, update),
                Ok(None) | Err(_) => break,
            }
        }
        state.close_round();
        screen.show(&state, None).await?;
        state.shown();
        if Some(round) == args.count {
            break;
        }
    }
    Ok(Exit::Fine)
}

/// Where there is no keyboard, none is waited for.
async fn next_key(keys: Option<&mut mpsc::UnboundedReceiver<Key>>) -> Option<Key> {
    keys?.recv().await
}

/// Somebody wants us to end: Ctrl-C, SIGTERM.
struct Stop {
    signals: [Signal; 2],
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self { signals: [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?] })
    }

    async fn asked(mut self) {
        let [interrupt, terminate] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}
