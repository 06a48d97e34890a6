//! On a pseudo-terminal, which script(1) of util-linux gives us.

use std::process::{Command, Stdio};

use crate::program::{Live, PROGRAM};
use crate::support::{TestServer, skip};

/// A shell command in a terminal of 100 × 30.
fn in_a_terminal(command: &str) -> Option<Live> {
    if Command::new("script").arg("--version").output().is_err() {
        skip("script(1) is not installed (util-linux)");
        return None;
    }
    let command = format!("stty cols 100 rows 30; {command}");
    let mut script = Command::new("script");
    script
        .args(["-qec", &command, "/dev/null"])
        .env("TERM", "xterm-256color")
        .env_remove("NO_COLOR");
    script.stdin(Stdio::piped()).stdout(Stdio::piped());
    Some(Live::raw(script.spawn().unwrap()))
}

#[test]
fn the_live_view_takes_the_screen_and_ctrl_c_gives_it_back() {
    let server = TestServer::start().unwrap();
    let command = format!("exec {PROGRAM} watch {} --interval 100ms", server.url());
    let Some(mut live) = in_a_terminal(&command) else { return };
    let begun =
        live.until_output("the second frame", |seen| seen.matches("\u{1b}[?2026l").count() >= 2);
    assert!(begun.contains("\u{1b}[?1049h") && begun.contains("\u{1b}[?25l"), "{begun:?}");
    assert!(begun.contains("127.0.0.1") && begun.contains("rejections"), "{begun:?}");
    assert!(!begun.contains("\u{1b}[?1049l"), "{begun:?}");
    assert_eq!(
        begun.matches("\u{1b}[2J").count(),
        1,
        "only at the start: a frame must not flicker"
    );

    live.press(b"\x03");

    let (code, all) = live.until_its_end();
    assert_eq!(code, Some(0), "{all:?}");
    assert!(all.contains("\u{1b}[?25h") && all.contains("\u{1b}[?1049l"), "{all:?}");
    assert!(all.rfind("\u{1b}[?1049l") > all.rfind("\u{1b}[?2026h"), "no frame after it: {all:?}");
}

#[test]
fn q_ends_it_and_gives_the_terminal_back_as_it_was() {
    let server = TestServer::start().unwrap();
    let command = format!(
        "stty -a | grep -o -- '-\\?icanon\\|-\\?echo\\b'; {PROGRAM} watch {} --interval 100ms; \
         echo code=$?; stty -a | grep -o -- '-\\?icanon\\|-\\?echo\\b'",
        server.url()
    );
    let Some(mut live) = in_a_terminal(&command) else { return };
    let begun = live.until_output("a frame", |seen| seen.contains("\u{1b}[?2026l"));
    assert!(begun.contains("q quits") && !begun.contains('↑'), "the hint: {begun:?}");
    assert!(!begun.contains("-icanon"), "{begun:?}");

    live.press(b"xq");

    let (_, all) = live.until_its_end();
    let (during, after) = all.split_once("code=0").unwrap_or_else(|| panic!("{all:?}"));
    assert!(during.ends_with("\u{1b}[?1049l"), "{all:?}");
    let before: Vec<&str> = all.lines().take(2).map(str::trim).collect();
    let after: Vec<&str> = after.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(before, after, "{all:?}");
}

#[test]
fn the_arrows_look_at_one_server_of_several() {
    let [first, second] = [(); 2].map(|()| TestServer::start().unwrap());
    let command =
        format!("exec {PROGRAM} watch {} {} --interval 100ms --top 2", first.url(), second.url());
    let Some(mut live) = in_a_terminal(&command) else { return };
    let last = |seen: &str| seen.rsplit("\u{1b}[?2026h").nth(1).unwrap_or_default().to_owned();
    let blocks = |seen: &str| last(seen).matches("rejections").count();
    let begun = live.until_output("both servers", |seen| blocks(seen) == 2);
    assert!(begun.contains("q quits, ↑↓ one server"), "{begun:?}");

    live.press(b"\x1b[B");
    live.until_output("one server", |seen| {
        let ports = [&first, &second].map(|server| format!(":{}", server.port()));
        blocks(seen) == 1 && ports.iter().all(|port| last(seen).contains(port))
    });
    live.press(b"\x1bOA");
    live.until_output("both again", |seen| blocks(seen) == 2);

    live.press(b"q");
    assert_eq!(live.until_its_end().0, Some(0));
}

#[test]
fn sigterm_gives_the_screen_back_too() {
    let server = TestServer::start().unwrap();
    // The shell waits, and tells us whom to end.
    let command = format!(
        "{PROGRAM} watch {} --interval 100ms & echo pid=$!; wait $!; echo code=$?",
        server.url()
    );
    let Some(mut live) = in_a_terminal(&command) else { return };
    let begun = live.until_output("a frame", |seen| seen.contains("\u{1b}[?2026l"));
    let pid = begun.split("pid=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let digits: String = pid.chars().take_while(char::is_ascii_digit).collect();
    assert!(Command::new("sh").args(["-c", &format!("kill {digits}")]).status().unwrap().success());

    let (_, all) = live.until_its_end();
    assert!(all.contains("\u{1b}[?1049l") && all.contains("code=0"), "{all:?}");
}

#[test]
fn colours_are_for_terminals_and_for_those_who_want_them() {
    let server = TestServer::start().unwrap();
    for (setting, coloured) in [("", true), ("NO_COLOR=1", false), ("NO_COLOR=", true)] {
        let once = format!("{setting} {PROGRAM} watch {} --interval 100ms --once", server.url());
        let Some(mut live) = in_a_terminal(&once) else { return };
        let (code, frame) = live.until_its_end();
        assert_eq!(code, Some(0), "{frame}");
        assert_eq!(frame.contains("\u{1b}["), coloured, "{setting}: {frame:?}");
        assert!(!frame.contains("\u{1b}[?1049h"), "one frame needs no screen: {frame:?}");
    }
}

#[test]
fn a_dumb_terminal_gets_plain_blocks() {
    let server = TestServer::start().unwrap();
    let command = format!("TERM=dumb {PROGRAM} watch {} --interval 100ms --count 2", server.url());
    let Some(mut live) = in_a_terminal(&command) else { return };
    let (code, frames) = live.until_its_end();
    assert_eq!(code, Some(0), "{frames}");
    assert!(
        !frames.contains('\u{1b}') && frames.matches("redis-guard watch").count() == 2,
        "{frames:?}"
    );
}

#[test]
fn ctrl_z_gives_the_shell_its_screen_and_going_on_takes_it_again() {
    let server = TestServer::start().unwrap();
    // A shell with job control says that its job was stopped, and goes on with it.
    let command = format!(
        "set -m; {PROGRAM} watch {} --interval 100ms; echo stopped=$?; fg; echo ended=$?",
        server.url()
    );
    let Some(mut live) = in_a_terminal(&format!("bash -c '{command}'")) else { return };
    live.until_output("a frame", |seen| seen.contains("\u{1b}[?2026l"));
    live.press(b"\x1a");
    let after = |seen: &str, mark: &str| seen.split_once(mark).map(|(_, rest)| rest.to_owned());
    let seen = live.until_output("the screen again, and a frame", |seen| {
        let shell = after(seen, "stopped=").unwrap_or_default();
        after(&shell, "\u{1b}[?1049h").is_some_and(|rest| rest.contains("\u{1b}[?2026l"))
    });
    let (before, _) = seen.split_once("stopped=").unwrap();
    assert!(before.contains("\u{1b}[?1049l"), "{seen:?}");

    live.press(b"\x03");

    let (_, all) = live.until_its_end();
    let end = after(&all, "stopped=").unwrap();
    assert!(end.contains("\u{1b}[?1049l") && end.contains("ended=0"), "{all:?}");
}
