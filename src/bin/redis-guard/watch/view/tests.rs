use std::time::Duration;

use redis_guard::doctor::{Holder, Holders, Registry, RegistryMember};
use redis_guard::server::{Observation, ServerObserver, ServerSnapshot};
use tokio::time::Instant;

use super::super::state::{State, Update};
use super::super::style::{clean, width};
use super::view;

const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\r\n\t\u{202e}\u{9b}31m日本\u{200b}é";

fn state(servers: usize) -> State {
    let names = (0..servers).map(|index| format!("10.0.0.{index}:6379"));
    State::new(names, Duration::from_secs(1), 10, None)
}

/// `rejected` since the first of two samples.
fn observation(clients: u64, maxclients: u64, rejected: u64) -> Observation {
    let info = |rejected: u64| {
        ServerSnapshot::parse(format!(
            "redis_version:7.0.15\r\nrole:master\r\nuptime_in_seconds:90000\r\n\
             connected_clients:{clients}\r\nconnected_slaves:1\r\ncluster_connections:2\r\n\
             maxclients:{maxclients}\r\nrejected_connections:{rejected}\r\n\
             total_connections_received:5\r\nblocked_clients:3\r\n"
        ))
    };
    let mut observer = ServerObserver::default();
    observer.observe(info(0), Instant::now());
    observer.observe(info(rejected), Instant::now() + Duration::from_secs(1))
}

fn holders(name: &str) -> Holders {
    let mut holders = Holders::default();
    let source = |index: usize| {
        let mut holder = Holder::default();
        (holder.key, holder.connections) = (format!("10.0.0.{index} {name}"), 50 - index);
        holder.idle = 50 - index;
        holder
    };
    (holders.sources, holders.clients) = (14, 999);
    holders.by_source = (0..10).map(source).collect();
    holders
}

fn registry(id: &str) -> Registry {
    let mut registry = Registry::default();
    let member = |granted: u64| {
        let mut member = RegistryMember::default();
        (member.id, member.granted, member.live) = (format!("{id}{granted}"), granted, granted / 2);
        member
    };
    registry.fleet = format!("fleet {id}");
    registry.members = [9, 5, 0].map(member).to_vec();
    (registry.granted, registry.live) = (14, 6);
    registry
}

/// Everything there is to show, in the words of somebody who means harm.
fn everything() -> State {
    let mut state = state(3);
    state.apply(0, Update::Connected);
    state.apply(0, Update::Observed(Box::new(Ok(observation(900, 1_000, 7)))));
    let holders = Box::new(Ok(holders(HOSTILE)));
    state.apply(0, Update::Holders { answer: holders, every: Some(Duration::from_secs(12)) });
    state.apply(0, Update::Registries(vec![Ok(registry(HOSTILE)), Err(HOSTILE.to_owned())]));
    state.apply(0, Update::Cluster(Some(vec![HOSTILE.to_owned(); 9])));
    state.apply(1, Update::Connected);
    state.apply(1, Update::Observed(Box::new(Err(HOSTILE.to_owned()))));
    let denied = Box::new(Err(HOSTILE.to_owned()));
    state.apply(1, Update::Holders { answer: denied, every: None });
    state.apply(2, Update::Connected);
    state.apply(2, Update::Lost { said: HOSTILE.to_owned(), next: Some(Instant::now()) });
    state.close_round();
    state
}

fn text(state: &State, width: usize) -> String {
    view(state, width, usize::MAX, false).join("\n")
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for columns in (0..130).chain([150, 200, 500]) {
        for line in view(&everything(), columns, usize::MAX, false) {
            assert!(width(&line) <= columns, "{columns}: {line:?}");
        }
    }
}

#[test]
fn no_frame_is_higher_than_the_terminal() {
    for (columns, rows) in [(0, 0), (1, 1), (80, 0), (80, 1), (80, 2), (40, 24), (200, 50)] {
        let lines = view(&everything(), columns, rows, true);
        assert!(lines.len() <= rows, "{columns} × {rows}: {lines:#?}");
    }
}

#[test]
fn nothing_that_a_server_says_can_command_the_terminal() {
    for columns in [40, 80, 200] {
        let frame = text(&everything(), columns);
        let harmful = |c: &char| {
            c.is_control() && *c != '\n'
                || ('\u{2000}'..'\u{2010}').contains(c)
                || ('\u{202a}'..'\u{202f}').contains(c)
        };
        assert_eq!(frame.chars().find(harmful), None, "{frame}");
        assert!(columns < 80 || frame.contains("日本"), "letters stay: {frame}");
    }
    let coloured = view(&everything(), 80, usize::MAX, true).join("\n");
    let escapes = coloured.split('\u{1b}').skip(1);
    for escape in escapes {
        let end = escape.find(|c: char| !c.is_ascii_digit() && c != '[' && c != ';');
        assert_eq!(end.map(|end| &escape[end..=end]), Some("m"), "only colours: {escape:?}");
    }
}

#[test]
fn what_is_not_known_is_a_dash_and_not_zero() {
    let mut state = state(1);
    state.apply(0, Update::Connected);
    let observation = ServerObserver::default().observe(ServerSnapshot::default(), Instant::now());
    state.apply(0, Update::Observed(Box::new(Ok(observation))));
    state.close_round();

    let frame = text(&state, 120);
    assert!(
        frame.contains("UNKNOWN") && frame.contains("– of –") && frame.contains("– free"),
        "{frame}"
    );
    let numbers = frame.lines().skip(1).any(|line| line.replace("10.0.0.0:6379", "").contains('0'));
    assert!(!numbers, "{frame}");
}

#[test]
fn a_server_that_is_full_says_so_and_shows_who_holds_its_slots() {
    let mut state = state(1);
    state.apply(0, Update::Connected);
    state.apply(0, Update::Observed(Box::new(Ok(observation(997, 1_000, 0)))));
    state.apply(0, Update::Observed(Box::new(Ok(observation(997, 1_000, 1_204)))));
    state.apply(0, Update::Holders { answer: Box::new(Ok(holders("api"))), every: None });
    state.close_round();

    let frame = text(&state, 120);
    for part in [
        " FULL ",
        "100.0%",
        "1,000 of 1,000",
        "0 free",
        "997 clients",
        "1 replica ",
        "2 cluster links",
        "1,204 in all",
        "10.0.0.0 api",
        "14 sources",
        "… 4 more",
        "up 25h 0m",
    ] {
        assert!(frame.contains(part), "{part}: {frame}");
    }
}

#[test]
fn a_server_that_refuses_and_serves_nobody_is_not_idle() {
    let mut state = state(1);
    let info = |rejected: u64, commands: u64| {
        ServerSnapshot::parse(format!(
            "connected_clients:100\r\nmaxclients:100\r\nrejected_connections:{rejected}\r\n\
             total_commands_processed:{commands}\r\nused_cpu_sys:{rejected}\r\nused_cpu_user:0\r\n"
        ))
    };
    let (mut observer, start) = (ServerObserver::default(), Instant::now());
    state.apply(0, Update::Connected);
    for second in 0..2 {
        let seen = info(second, second * 3);
        let seen = observer.observe(seen, start + Duration::from_secs(2 * second));
        state.apply(0, Update::Observed(Box::new(Ok(seen))));
    }
    state.close_round();
    let frame = text(&state, 120);
    for part in [" FULL, NOT IDLE ", "commands", "1.5/s", "50.0 % of a core"] {
        assert!(frame.contains(part), "{part}: {frame}");
    }
}

#[test]
fn almost_full_is_not_full() {
    let mut state = state(1);
    state.apply(0, Update::Connected);
    state.apply(0, Update::Observed(Box::new(Ok(observation(9_996, 10_000, 0)))));
    let frame = text(&state, 80);
    assert!(frame.contains("99.9%") && frame.contains('░') && frame.contains("1 free"), "{frame}");
}

#[test]
fn the_worst_comes_first() {
    let mut state = state(4);
    for (server, clients) in [(0, 10), (1, 900), (2, 900)] {
        state.apply(server, Update::Connected);
        state.apply(server, Update::Observed(Box::new(Ok(observation(clients, 1_000, 0)))));
    }
    state.apply(3, Update::Lost { said: "gone".to_owned(), next: None });
    let order: Vec<_> = state.worst_first().iter().map(|server| server.address.as_str()).collect();
    assert_eq!(order, ["10.0.0.3:6379", "10.0.0.1:6379", "10.0.0.2:6379", "10.0.0.0:6379"]);
}

#[test]
fn in_a_low_terminal_every_server_has_a_line_and_the_best_are_left_out_last() {
    let mut state = state(8);
    for server in 0..8 {
        state.apply(server, Update::Connected);
        let seen = observation(100 * (server as u64 + 1), 1_000, 0);
        state.apply(server, Update::Observed(Box::new(Ok(seen))));
    }
    let nine = view(&state, 80, 9, false);
    assert_eq!(nine.len(), 9);
    assert!(nine[1].contains("10.0.0.7") && nine[8].contains("10.0.0.0"), "{nine:#?}");
    let five = view(&state, 80, 5, false);
    assert!(five[1].contains("10.0.0.7") && five[4].contains("5 more"), "{five:#?}");
}

#[test]
fn without_colour_there_is_no_escape() {
    assert!(!text(&everything(), 100).contains('\u{1b}'));
    assert!(view(&everything(), 100, 50, true).join("").contains('\u{1b}'));
}

#[test]
fn a_fleet_shows_its_members_and_their_sums() {
    let mut state = state(1);
    state.apply(0, Update::Connected);
    state.apply(0, Update::Registries(vec![Ok(registry("checkout-"))]));
    let frame = text(&state, 100);
    for part in ["checkout-9", "3 members", "granted", "14", "6"] {
        assert!(frame.contains(part), "{part}: {frame}");
    }
}

proptest::proptest! {
    #[test]
    fn cleaned_text_has_no_control_character(text: String) {
        let cleaned = clean(&text);
        proptest::prop_assert!(!cleaned.chars().any(char::is_control));
        proptest::prop_assert_eq!(cleaned.chars().count(), text.chars().count());
    }
}
