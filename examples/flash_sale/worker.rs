//! A worker process: some of the app servers, as many as its open files allow.

use std::io::Write;
use std::rc::Rc;

use futures_util::future::join_all;
use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use tokio::task::LocalSet;

use crate::Failure;
use crate::app::{App, Log};
use crate::orders::{Done, Order, Seen, Setup, Word};
use crate::usage::cpu_time;

/// Does what it is told on standard input, and answers on standard output.
pub(crate) async fn work() -> Result<(), Failure> {
    let local = LocalSet::new();
    local.run_until(obey(&local)).await
}

async fn obey(local: &LocalSet) -> Result<(), Failure> {
    let mut lines = BufReader::new(stdin()).lines();
    let Some(setup) = lines.next_line().await? else { return Ok(()) };
    let setup: Setup = serde_json::from_str(&setup)?;
    let log = Rc::new(Log::default());
    let mut apps: Vec<App> = Vec::new();
    // Without a next line the one who started us is gone.
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str(&line)? {
            Order::Open { apps: numbers } => {
                for number in numbers {
                    apps.push(App::open(number, &setup, &log, local)?);
                }
            }
            Order::Look => {
                let live = apps.iter().map(|app| (app.number(), app.live())).collect();
                say(&Word::Seen(Seen { live, ok: log.ok.get(), failed: log.failed.get() }))?;
            }
            Order::Cpu => {
                let nanos = cpu_time("self").and_then(|time| time.as_nanos().try_into().ok());
                say(&Word::Cpu(nanos))?;
            }
            Order::Stop => {
                let first = apps.iter().map(App::first).collect();
                let (ok, failed) = (log.ok.get(), log.failed.get());
                join_all(apps.iter_mut().map(App::empty)).await;
                join_all(apps.into_iter().map(App::close)).await;
                let errors = log.errors.take();
                return say(&Word::Done(Done { ok, failed, errors, first }));
            }
        }
    }
    Ok(())
}

fn say(word: &Word) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, word)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}
