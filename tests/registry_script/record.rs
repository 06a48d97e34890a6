//! A member's record: the script and [`Record`] read and write the same, within the same bounds.

use proptest::prelude::*;
use redis_guard::internal::registry::{COUNT_MAX, Record, SEQ_MAX};

use super::redis::RealScript;
use super::script::ServerState;
use super::{Member, keys, load};

const SERVER: ServerState = ServerState {
    now_ms: 1_000_000,
    connected_clients: 30,
    maxclients: Some(100),
    priority_clients: None,
};

#[test]
fn what_the_script_writes_on_a_real_server_is_read_member_by_member() {
    let script = RealScript::start(300);
    let mut rng = fastrand::Rng::with_seed(11);
    let mut members = Vec::new();
    for id in 0..20 {
        let (base, extra) = (rng.usize(..50), rng.usize(..50));
        let (seq, live) = (rng.u64(1..1_000), rng.usize(..20));
        let member = Member { id, seq, live, base, peak: base + extra, hungry: true, max: 100 };
        let limit = script.run(&keys(), &member.args())[0];
        members.push((member, limit));
    }

    let records = script.hash(&keys()[0]);
    assert_eq!(records.len(), members.len());
    for (member, limit) in members {
        let text = &records[&format!("member-{}", member.id)];
        let expected = Record {
            seq: member.seq,
            granted: u64::try_from(limit).expect("a limit").max(member.live as u64),
            live: member.live as u64,
            base: member.base as u64,
            extra: (member.peak - member.base) as u64,
        };
        assert_eq!(Record::parse(text.as_bytes()), Some(expected), "{text}");
        assert_eq!(expected.to_string(), *text);
    }
}

#[test]
fn a_record_of_ours_is_a_members_for_the_script() {
    let script = RealScript::start(300);
    let record = Record { seq: 5, granted: 9, live: 4, base: 3, extra: 2 };
    script.server().admin().text(&["HSET", &keys()[0], "member-1", &record.to_string()]);

    let member = Member { id: 1, seq: 5, live: 4, base: 3, peak: 5, hungry: false, max: 100 };
    assert_eq!(script.run(&keys(), &member.args()), [-1], "its fifth beat was heard before");
    let reply = script.run(&keys(), &Member { seq: 6, ..member }.args());
    assert_eq!((reply[0], reply[3]), (4, 1), "{reply:?}");
}

#[test]
fn the_most_that_a_member_can_claim_is_within_the_bounds() {
    let script = load();
    let server = ServerState { maxclients: Some(4 * COUNT_MAX), ..SERVER };
    let most = usize::MAX;
    let args = ["beat", "member-1", "99999999999999999999"].map(str::to_owned).into_iter();
    let args = args.chain([most, most, most, most, 1, most, 0].map(|number| number.to_string()));
    script.run(server, &keys(), &args.collect::<Vec<_>>()).expect("a reply");

    let text = &script.hash(&keys()[0])["member-1"];
    let record = Record::parse(text.as_bytes()).unwrap_or_else(|| panic!("unreadable: {text}"));
    assert_eq!((record.seq, record.live, record.base), (SEQ_MAX, COUNT_MAX, COUNT_MAX));
}

/// Like a record, or not at all.
fn text() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        4 => (0..20_u64).prop_map(|number| number.to_string()),
        2 => (COUNT_MAX - 1..=COUNT_MAX + 1).prop_map(|number| number.to_string()),
        2 => (SEQ_MAX - 1..=SEQ_MAX + 1).prop_map(|number| number.to_string()),
        1 => "[-+.0-9a-z]{0,25}",
    ];
    let numbers = proptest::collection::vec(number, 4..7);
    prop_oneof![
        9 => numbers.prop_map(|numbers| numbers.join(" ")),
        1 => "[ 0-9\n]{0,20}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn the_script_keeps_what_is_a_record_and_drops_the_rest(text in text()) {
        let script = load();
        script.command(&["HSET", &keys()[0], "member-1", &text]);
        // The first beat of a registry goes over all of it.
        let other = Member { id: 2, seq: 1, live: 0, base: 1, peak: 1, hungry: false, max: 20 };
        script.run(SERVER, &keys(), &other.args()).expect("a reply");

        let kept = script.hash(&keys()[0]).get("member-1").cloned();
        let expected = Record::parse(text.as_bytes()).map(|_| text);
        prop_assert_eq!(kept, expected);
    }
}
