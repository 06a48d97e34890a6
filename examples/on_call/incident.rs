//! What happens, one thing after the other.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use redis_guard::doctor::{Doctor, VerdictKind};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Failure;
use crate::args::Args;
use crate::cast::{Cast, INSTANCES, POOL, REDIAL, WANTED, WORKERS};
use crate::pictures::Camera;
use crate::server::TestServer;
use crate::storefront::{MOST, POOLS, Storefront};
use crate::voice::Voice;

const MAXCLIENTS: u32 = 400;

/// Stands for the doctor's five minutes: an incident that is to take a minute has no time for them.
pub(crate) const IDLE_AFTER: Duration = Duration::from_secs(5);

/// What is filling, of a hundred.
const FILLING: u64 = 80;

/// The parts of the time after which the server is full, and the leak is found and mended.
const FULL_AT: f64 = 0.35;
const MENDED_AT: f64 = 0.75;

/// Far above what anything here takes, on a machine that has other things to do.
const LIMIT: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(50);

/// How often the doctor asks until it hears what is to be heard; the server takes a moment.
const TRIES: usize = 20;

pub(crate) async fn play(args: &Args) -> Result<(), Failure> {
    // To its protected mode all clients but those from 127.0.0.1 are strangers.
    let server =
        TestServer::builder().maxclients(MAXCLIENTS).arg("protected-mode", "no").start()?;
    let url = format!("redis://127.0.0.1:{}", server.port());
    let mut storefront = Storefront::open(&url).await?;
    let mut cast = block_in_place(|| Cast::enter(&server));
    until("the pools to come up", LIMIT, || storefront.is_up()).await?;
    let mut camera = match &args.screenshots {
        Some(dir) => Some(Camera::set_up(dir, args, &url, &storefront.page).await?),
        None => None,
    };
    let voice = Voice::new();
    introduce(args, &server, &url, &storefront.page);

    fills(args, &voice, &server, &mut cast).await?;
    let outside = Doctor::new([url.as_str()]).idle_after(IDLE_AFTER);
    let refused = refused(args, &voice, &server, &url, &outside, &mut cast).await?;

    storefront.rush();
    // By then all that was leaked before the server was full is idle for long enough.
    sleep(IDLE_AFTER + Duration::from_secs(1)).await;
    voice.moment("From inside:", "the same doctor, over a connection that a pool holds anyway.");
    voice.typed("# Doctor::examine_pool(&pool)");
    let report = storefront.examine(&outside).await?;
    voice.report(&report);
    let at_worst = storefront.now();
    voice.moment(
        "The guard:",
        &format!(
            "{} callers come to storefront now, twice as many, and it would open {} connections.",
            storefront.callers(),
            POOLS * MOST
        ),
    );
    voice.and(&format!(
        "They take turns on the {} that it has: {} requests were served until now, {} failed.",
        at_worst.live, at_worst.served, at_worst.failed
    ));
    voice.and(&format!(
        "Dials refused: {} of storefront's, {} of search's.",
        at_worst.dials_refused,
        cast.newcomer_has().1
    ));
    if let Some(camera) = &mut camera {
        let written = camera.shoot(&url, &refused, &report, args.lines).await?;
        voice.moment("Pictures:", &written);
    }
    sleep_until(voice.began() + args.length.mul_f64(MENDED_AT)).await;

    mended(&voice, &server, &storefront, &mut cast).await?;
    all_clear(&voice, &url, &outside).await?;
    let now = storefront.now();
    voice.moment(
        "All in all",
        &format!("storefront served {} requests; {} failed.", now.served, now.failed),
    );
    let end = voice.began() + args.length;
    if Instant::now() < end {
        voice.and(&format!(
            "The page and the server stay until {} s are over; Ctrl-C ends them now.",
            args.length.as_secs()
        ));
        sleep_until(end).await;
    }
    Ok(())
}

fn introduce(args: &Args, server: &TestServer, url: &str, page: &str) {
    println!(
        "An incident of {} s, on a redis-server of its own, 127.0.0.1:{} with maxclients {MAXCLIENTS}:\n",
        args.length.as_secs(),
        server.port()
    );
    println!("  checkout    {INSTANCES} instances with {POOL} connections each; one of them leaks");
    println!("  worker      {WORKERS} consumers in BLPOP");
    println!(
        "  search      a new instance that wants {WANTED}; refused, it dials every {} ms, for ever",
        REDIAL.as_millis()
    );
    println!("  storefront  {POOLS} guarded pools of {MOST}, a fleet, in this process\n");
    println!("To look on, in a browser: {page}");
    println!("and in another terminal:  {}", watch_command(url));
}

/// Whichever way there is to the binary.
fn watch_command(url: &str) -> String {
    let program = match redis_guard_binary() {
        Some(path) => path.display().to_string(),
        None => "cargo run --features cli --bin redis-guard --".to_owned(),
    };
    format!("{program} watch {url} --idle-after {}s", IDLE_AFTER.as_secs())
}

/// `target/<profile>/redis-guard`, beside `target/<profile>/examples/on_call`.
pub(crate) fn redis_guard_binary() -> Option<PathBuf> {
    let example = std::env::current_exe().ok()?;
    let path = example.parent()?.parent()?.join("redis-guard");
    path.is_file().then_some(path)
}

/// 1. Nobody is refused yet.
async fn fills(
    args: &Args,
    voice: &Voice,
    server: &TestServer,
    cast: &mut Cast<'_>,
) -> Result<(), Failure> {
    let (before, began) = (server.admin().used_slots(), Instant::now());
    let free = u32::try_from(u64::from(MAXCLIENTS).saturating_sub(before))?.max(1);
    cast.leak(args.length.mul_f64(FULL_AT) / free);
    let used = || server.admin().used_slots();
    until("the server to fill", args.length, || used() * 100 >= u64::from(MAXCLIENTS) * FILLING)
        .await?;
    let (now, took) = (used(), began.elapsed());
    let more = now.saturating_sub(before).max(1);
    let left = took.mul_f64(share(u64::from(MAXCLIENTS) - now, more));
    voice.moment(
        "It is filling:",
        &format!(
            "{now} of {MAXCLIENTS} slots, {before} of them {} s ago. At this rate it is full in {} s.",
            took.as_secs(),
            left.as_secs()
        ),
    );
    voice.and(
        "Time for `redis-guard watch`: the slot that it takes now it keeps when there are none.",
    );
    Ok(())
}

/// 2. Nobody is let in, the doctor included. Returns what it says then.
async fn refused(
    args: &Args,
    voice: &Voice,
    server: &TestServer,
    url: &str,
    outside: &Doctor,
    cast: &mut Cast<'_>,
) -> Result<redis_guard::doctor::Report, Failure> {
    let rejections = || server.admin().info_u64("rejected_connections");
    until("the server to be full", args.length, || rejections() > 0).await?;
    cast.newcomer();
    // A connection that somebody gives back makes room for a moment.
    let mut tries = TRIES;
    let report = loop {
        let report = outside.examine().await;
        if report.servers.iter().all(|it| it.verdict.kind == VerdictKind::Full) {
            break report;
        }
        tries -= 1;
        if tries == 0 {
            return Err(format!("the server should be full, but:\n{report}").into());
        }
    };
    let used = server.admin().used_slots();
    voice.moment(
        "It is full:",
        &format!("{used} of {MAXCLIENTS} slots. Whoever dials is refused, tools as well."),
    );
    voice.typed(&format!("$ {}", doctor_command(url)));
    voice.report(&report);
    Ok(report)
}

pub(crate) fn doctor_command(url: &str) -> String {
    format!("redis-guard doctor {url} --idle-after {}s", IDLE_AFTER.as_secs())
}

/// 3. What has been found is mended.
async fn mended(
    voice: &Voice,
    server: &TestServer,
    storefront: &Storefront,
    cast: &mut Cast<'_>,
) -> Result<(), Failure> {
    let before = Slots::of(server);
    block_in_place(|| cast.restart());
    until("the newcomer to be let in", LIMIT, || cast.newcomer_has().0 == WANTED).await?;
    // What is told of it is to be true when the doctor looks, too.
    until("storefront to grow", LIMIT, || storefront.is_at_its_most()).await?;
    let after = Slots::of(server);
    voice.moment(
        "The fix:",
        &format!("checkout on {} is restarted, and its leak is gone.", Cast::leaking_address()),
    );
    voice.and(&format!("Of {MAXCLIENTS} slots before, {before}."));
    voice.and(&format!("Now, {after}."));
    voice.and(&format!("search was refused {} times until it had them.", cast.newcomer_has().1));
    Ok(())
}

/// Who holds the slots, by name, all of one look: figures of two would not add up.
struct Slots(BTreeMap<String, usize>);

impl Slots {
    fn of(server: &TestServer) -> Self {
        let mut slots = BTreeMap::new();
        for client in server.admin().client_list() {
            *slots.entry(client["name"].clone()).or_default() += 1;
        }
        Self(slots)
    }
}

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.0.iter().map(|(name, slots)| format!("{name} {slots}"));
        let held = held.collect::<Vec<_>>().join(", ");
        write!(f, "{} in use: {held}", self.0.values().sum::<usize>())
    }
}

/// 4. The doctor agrees.
async fn all_clear(voice: &Voice, url: &str, outside: &Doctor) -> Result<(), Failure> {
    let mut report = outside.examine().await;
    for _ in 0..TRIES {
        if report.servers.iter().all(|it| it.verdict.kind == VerdictKind::NothingWrong) {
            break;
        }
        report = outside.examine().await;
    }
    voice.moment("Afterwards:", "what the doctor says now; one slot more is its own.");
    voice.typed(&format!("$ {}", doctor_command(url)));
    voice.verdict(&report);
    Ok(())
}

async fn until(what: &str, limit: Duration, done: impl Fn() -> bool) -> Result<(), Failure> {
    let deadline = Instant::now() + limit;
    while !done() {
        if Instant::now() > deadline {
            return Err(format!("waited in vain for {what}").into());
        }
        sleep(TICK).await;
    }
    Ok(())
}

fn share(part: u64, whole: u64) -> f64 {
    let clamped = |number: u64| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
    clamped(part) / clamped(whole)
}
