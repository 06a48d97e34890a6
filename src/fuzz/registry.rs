//! What a fleet's registry answers and keeps.

use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::{Membership, Record, Report, fleet_of_key, news_of_state, registry_keys};

const MAX_CONNECTIONS: usize = 64;

/// Whatever the registry answers, a member has a share within its bounds, and beats again within an hour and a half.
pub fn run(data: &[u8]) {
    if let Some(record) = Record::parse(data) {
        assert_eq!(Record::parse(record.to_string().as_bytes()), Some(record));
    }
    let _ = news_of_state(data);
    if let Some(fleet) = fleet_of_key(data) {
        assert!(registry_keys(&fleet).iter().any(|key| key.as_bytes() == data), "{fleet}");
    }
    beats(data);
}

/// A member, beat by beat: each has a byte that says what happens, and the words of its reply.
fn beats(data: &[u8]) {
    let mut now = Instant::now();
    let mut member = Membership::new("id".to_owned(), MAX_CONNECTIONS, 0, now, 1);
    for step in data.split(|byte| *byte == b'\n').take(32) {
        let Some((&what, reply)) = step.split_first() else { continue };
        let report = Report {
            live: usize::from(what & 0x3f),
            dialing: usize::from(what & 1),
            base: usize::from(what >> 2),
            peak: usize::from(what),
            hungry: what & 2 > 0,
        };
        let beat = member.beat(now, &report);
        assert!(beat.args.iter().all(|arg| arg.len() < 64), "{:?}", beat.args);
        match what >> 6 {
            0 => member.failed(&beat),
            1 => member.lost(report.live),
            _ => {}
        }
        let words = String::from_utf8_lossy(reply);
        let numbers: Vec<i64> = words.split(' ').filter_map(|word| word.parse().ok()).collect();
        let understood = member.replied(&beat, &numbers);
        assert!(!understood || numbers.len() == 9, "{numbers:?}");
        if let Some(share) = member.share(now) {
            assert!((1..=MAX_CONNECTIONS).contains(&share.limit), "{share:?}");
        }
        let due = member.due(report.hungry, report.live).expect("the next beat");
        assert!(due <= now + Duration::from_secs(5_400), "the next beat is in {:?}", due - now);
        if member.glance_due().is_some() {
            member.glance(now);
            member.glanced(news_of_state(reply));
        }
        now = due.max(now + Duration::from_millis(1));
    }
}
