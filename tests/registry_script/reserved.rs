//! Slots that the server keeps from ordinary clients: a fleet on 100 slots of which 60 are reserved is one on
//! 40.

use super::script::{Script, ServerState};
use super::{Member, keys, load};

const SERVER: ServerState = ServerState {
    now_ms: 1_000_000,
    connected_clients: 12,
    maxclients: Some(100),
    priority_clients: None,
};

fn beat(script: &Script, server: ServerState, seq: u64, reserved: Option<&str>) -> Vec<i64> {
    let member = Member { id: 1, seq, live: 3, base: 60, peak: 80, hungry: true, max: 90 };
    let args = member.args().into_iter().chain(reserved.map(str::to_owned)).collect::<Vec<_>>();
    // Older than the time in which a registry grants little.
    let server = ServerState { now_ms: server.now_ms + seq * 60_000, ..server };
    script.run(server, &keys(), &args).expect("the script should not fail")
}

/// The replies to two beats.
fn beats(server: ServerState, reserved: Option<&str>) -> [Vec<i64>; 2] {
    let script = load();
    [1, 2].map(|seq| beat(&script, server, seq, reserved))
}

#[test]
fn they_are_granted_to_nobody() {
    let small = ServerState { maxclients: Some(40), ..SERVER };
    assert_eq!(beats(SERVER, Some("60")), beats(small, Some("0")));
    assert_ne!(beats(SERVER, Some("60")), beats(SERVER, Some("0")));
}

#[test]
fn those_that_are_in_use_are_counted_once() {
    let in_use = ServerState { priority_clients: Some(10), ..SERVER };
    let small = ServerState { maxclients: Some(50), ..SERVER };
    assert_eq!(beats(in_use, Some("60")), beats(small, None));
    let more_than_reserved = ServerState { priority_clients: Some(90), ..SERVER };
    assert_eq!(beats(more_than_reserved, Some("60")), beats(SERVER, None));
}

/// A member of an older version of the crate sends none.
#[test]
fn who_says_nothing_or_nonsense_knows_of_none() {
    for nonsense in [None, Some(""), Some("many"), Some("-5"), Some("nan")] {
        assert_eq!(beats(SERVER, nonsense), beats(SERVER, Some("0")), "{nonsense:?}");
    }
}
