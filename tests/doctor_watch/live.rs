//! The watch that goes on, over a pipe.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::NAME;
use crate::program::{Live, watch};
use crate::support::server::poll;
use crate::support::{Crowd, Occupants, Storm, TestServer};

const FAST: &[&str] = &["--interval", "200ms"];

fn live(url: &str, more: &[&str]) -> Live {
    Live::json(&[&[url], FAST, more].concat())
}

fn connections(server: &TestServer) -> usize {
    server.admin().clients_named(NAME)
}

fn is_up(server: &Value) -> bool {
    server["connected"] == true && server["used"].is_u64()
}

fn has_event(server: &Value, event: &str) -> bool {
    server["events"].as_array().unwrap().iter().any(|it| it["event"] == event)
}

#[test]
fn a_server_that_fills_up_is_seen_to_over_one_connection() {
    let server = TestServer::builder().maxclients(30).start().unwrap();
    let live = live(&server.url(), &[]);
    let before = live.until("a connection", is_up)["used"].as_u64().unwrap();

    let mut occupants = Occupants::none(&server);
    occupants.take(10);
    live.until("the newcomers", |it| it["used"] == before + 10);
    assert_eq!(connections(&server), 1);
    occupants.top_up();
    let it = live.until("rejections", |it| it["rejections_per_second"].as_f64() > Some(0.0));
    assert_eq!(it["rejections_watched"], 1);
    let it = live.until("the full house", |it| it["condition"] == "full");
    assert_eq!((&it["used"], &it["free"]), (&30.into(), &0.into()));
    assert_eq!(connections(&server), 1);

    occupants.free();
    live.until("room again", |it| it["condition"] == "fine");
    assert_eq!((connections(&server), server.admin().info_u64("rejected_connections")), (1, 1));
}

#[test]
fn commands_and_processor_time_stand_beside_the_rejections() {
    let server = TestServer::builder().maxclients(30).start().unwrap();
    let live = live(&server.url(), &[]);
    let busy = Crowd::from(&server, 1).open(10).busy();
    let rate = |it: &Value| it["commands_per_second"].as_f64().unwrap_or(0.0);
    let it = live.until("commands", |it| rate(it) > 50.0);
    assert!(it["cpu_cores"].as_f64().unwrap() >= 0.0, "{it:#}");
    assert_eq!(it["stands_still"], false);

    let _still = busy.still();
    let _occupants = server.fill();
    let storm = Storm::from(&server, 1, 4);
    let it = live.until("a server that stands still", |it| it["stands_still"] == true);
    assert!(rate(&it) < 10.0, "its own are not among them: {it:#}");
    drop(storm);
    live.until("an end", |it| it["stands_still"] == false);
}

#[test]
fn a_restart_is_said_and_the_server_found_again() {
    let server = TestServer::start().unwrap();
    let live = live(&server.url(), &[]);
    live.until("a connection", is_up);

    server.crash();
    let lost = live.until("the loss", |it| has_event(it, "connection_lost"));
    assert!(lost["not_connected"]["message"].is_string(), "{lost:#}");
    let down = live.until("refusals", |it| it["not_connected"]["outcome"] == "refused");
    assert!(down["used"].is_null(), "what it was is not what it is: {down:#}");
    server.restart().unwrap();
    let found = live.until("the server", |it| has_event(it, "connected"));
    assert!(has_event(&found, "restarted"), "{found:#}");
    let next = live.until("the next look", is_up);
    assert!(next["events"].as_array().unwrap().is_empty(), "each event once: {next:#}");
    assert_eq!(connections(&server), 1);
}

#[test]
fn a_frozen_server_is_said_to_be_silent_and_the_other_is_still_watched() {
    let (frozen, other) = (TestServer::start().unwrap(), TestServer::start().unwrap());
    let url = other.url();
    let live = live(&frozen.url(), &[&url, "--timeout", "1s"]);
    let name = format!("127.0.0.1:{}", frozen.port());
    let both = |frame: &Value| {
        let servers = frame["servers"].as_array().unwrap().clone();
        let (mine, others): (Vec<_>, Vec<_>) =
            servers.into_iter().partition(|it| it["server"] == name.as_str());
        (mine[0].clone(), others[0].clone())
    };
    let until = |what: &str, is_so: &dyn Fn(&Value) -> bool| {
        let found = poll(Duration::from_secs(30), || {
            let (mine, others) = both(&live.frame());
            (is_so(&mine)).then_some(others)
        });
        found.unwrap_or_else(|| panic!("{what} should have come"))
    };
    until("a connection", &is_up);

    frozen.pause();
    let others =
        until("silence", &|it| it["condition"] == "silent" && it["silent_seconds"].is_f64());
    assert!(is_up(&others), "{others:#}");
    let others = until("the end of patience", &|it| it["connected"] == false);
    assert!(is_up(&others), "{others:#}");
    frozen.resume();
    until("its answer", &is_up);
    assert_eq!(connections(&frozen), 1);
}

#[test]
fn a_short_silence_does_not_cost_the_connection() {
    let server = TestServer::start().unwrap();
    let live = live(&server.url(), &["--timeout", "20s"]);
    live.until("a connection", is_up);
    let id = || {
        let list = server.admin().client_list();
        list.into_iter().find(|client| client["name"] == NAME).map(|client| client["id"].clone())
    };
    let before = id();

    server.pause();
    live.until("silence", |it| it["condition"] == "silent");
    server.resume();
    live.until("its answer", |it| it["condition"] == "fine");
    assert_eq!(id(), before);
}

/// Dials that equal jitter from 250 ms to 5 s may make in this time, at its fastest.
fn allowed(elapsed: Duration) -> u64 {
    let pauses = std::iter::successors(Some(0.25_f64), |pause| Some((pause * 2.0).min(2.5)));
    let mut at = 0.0;
    let dials = pauses.take_while(|pause| {
        at += pause;
        at <= elapsed.as_secs_f64()
    });
    1 + dials.count() as u64
}

#[test]
fn a_full_server_is_not_stormed_and_its_first_free_slot_is_taken() {
    let server = TestServer::builder().maxclients(20).start().unwrap();
    let mut occupants = server.fill();
    let rejected = || server.admin().info_u64("rejected_connections");
    let (before, begun) = (rejected(), Instant::now());
    let live = live(&server.url(), &[]);

    let down =
        live.until("five refusals", |it| it["not_connected"]["failures"].as_u64() >= Some(5));
    let made = rejected() - before;
    assert!((5..=allowed(begun.elapsed())).contains(&made), "{made} in {:?}", begun.elapsed());
    assert_eq!(down["not_connected"]["outcome"], "max_clients");
    let said = down["not_connected"]["message"].as_str().unwrap();
    assert!(said.contains("max number of clients reached"), "{said}");
    assert!(down["not_connected"]["next_dial_seconds"].as_f64().unwrap() <= 5.0);

    occupants.release(1);
    live.until("the slot", is_up);
    assert_eq!(connections(&server), 1);
}

#[test]
fn a_connection_that_is_killed_is_opened_again() {
    let server = TestServer::start().unwrap();
    let live = live(&server.url(), &[]);
    live.until("a connection", is_up);
    let id = server.admin().client_list().into_iter().find(|it| it["name"] == NAME).unwrap();

    server.admin().text(&["CLIENT", "KILL", "ID", &id["id"]]);

    live.until("the loss", |it| has_event(it, "connection_lost"));
    live.until("the server", is_up);
    assert_eq!(connections(&server), 1);
}

#[test]
fn events_of_the_server_are_told_once() {
    let server = TestServer::builder().maxclients(50).start().unwrap();
    let live = live(&server.url(), &[]);
    live.until("a connection", is_up);

    server.admin().set_maxclients(40);

    let it = live.until("the event", |it| has_event(it, "ceiling_changed"));
    assert_eq!(it["events"][0]["text"], "maxclients 50 → 40");
    assert_eq!(it["maxclients"], 40);
    assert!(live.frame()["servers"][0]["events"].as_array().unwrap().is_empty());
}

#[test]
fn so_many_frames_and_then_the_end() {
    let server = TestServer::start().unwrap();
    let url = server.url();
    let output = watch(&[&url, "--interval", "100ms", "--count", "3"]).output().unwrap();

    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text.matches("redis-guard watch").count(), 3, "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
}

#[test]
fn whoever_has_read_enough_ends_it_quietly() {
    let server = TestServer::start().unwrap();
    for format in ["text", "json"] {
        let url = server.url();
        let mut command = watch(&[&url, "--interval", "100ms", "--output", format]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut errors = child.stderr.take().unwrap();
        let mut pipe = child.stdout.take().unwrap();
        std::io::Read::read_exact(&mut pipe, &mut [0; 20]).unwrap();
        drop(pipe);
        let ended = poll(Duration::from_secs(10), || child.try_wait().unwrap());
        assert_eq!(ended.expect("it should have ended").code(), Some(0));
        let mut said = String::new();
        std::io::Read::read_to_string(&mut errors, &mut said).unwrap();
        assert_eq!(said, "");
    }
}

#[test]
fn a_reader_that_stalls_does_not_keep_it_from_ending() {
    let server = TestServer::start().unwrap();
    let url = server.url();
    let mut command = watch(&[&url, "--interval", "100ms", "--output", "json"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut pipe, &mut [0; 1]).unwrap();
    // A pipe holds 64 KiB of frames of a good 2 each. When it is full, nothing is asked any more.
    let mut last = None;
    let stalled = || {
        let commands = server.admin().info_u64("total_commands_processed");
        std::thread::sleep(Duration::from_millis(1_000));
        let same = server.admin().info_u64("total_commands_processed") - commands <= 1;
        (same && last.replace(commands).is_some()).then_some(())
    };
    poll(Duration::from_secs(60), stalled).expect("the pipe should have filled up");

    let kill = format!("kill -TERM {}", child.id());
    std::process::Command::new("sh").args(["-c", &kill]).status().unwrap();

    let ended = poll(Duration::from_secs(10), || child.try_wait().unwrap());
    assert_eq!(ended.expect("it should have ended").code(), Some(0));
}

#[test]
fn signals_end_it_with_0() {
    let server = TestServer::start().unwrap();
    for signal in ["INT", "TERM"] {
        let mut live = live(&server.url(), &[]);
        live.frame();
        live.signal(signal);
        assert_eq!(live.ended().code(), Some(0), "{signal}");
    }
    let gone = || (connections(&server) == 0).then_some(());
    poll(Duration::from_secs(5), gone).expect("nothing is left behind");
}
