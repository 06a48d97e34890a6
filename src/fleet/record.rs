//! The registry as it stands in the server: its keys, and the record of a member.
//!
//! `registry.lua` reads and writes them too; `tests/registry_script` holds it to what is said here.

use std::fmt;
use std::str;

use super::Fleet;

/// What every key of a fleet's registry begins with, up to the fleet's name.
const PREFIX: &str = "{redis-guard:";

/// What follows the name in the key of the members.
const MEMBERS: &str = "}:members";

/// No member has more connections than this: the script writes nothing above it, and drops what is.
pub const COUNT_MAX: u64 = 1_000_000;

/// No member has sent more beats than this: above it, Lua's numbers are not exact for ever.
pub const SEQ_MAX: u64 = 1_000_000_000_000_000;

/// The keys of a fleet's registry, in the order of the script's `KEYS`: members, expiries, sums. One
/// hash tag, so that a cluster keeps them on one node.
#[must_use]
pub fn registry_keys(fleet: &str) -> [String; 3] {
    [MEMBERS, "}:expiries", "}:sums"].map(|part| format!("{PREFIX}{fleet}{part}"))
}

/// The pattern of SCAN that matches the members' key of every fleet.
#[must_use]
pub fn members_pattern() -> String {
    let [members, ..] = registry_keys("*");
    members
}

/// The fleet whose members' key this is, where a fleet may have that name.
#[must_use]
pub fn fleet_of_key(key: &[u8]) -> Option<String> {
    let name = str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.strip_suffix(MEMBERS)?;
    Fleet::named(name).problem().is_none().then(|| name.to_owned())
}

/// What the registry keeps of a member, as of its last beat: `seq granted live base extra`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The number of the beat: one that was overtaken changes nothing.
    pub seq: u64,
    /// Connections it may have.
    pub granted: u64,
    /// Connections the server has accepted from it.
    pub live: u64,
    /// [`Demand::base`](crate::policy::Demand::base), rounded.
    pub base: u64,
    /// What [`Demand::peak`](crate::policy::Demand::peak) is above that, rounded.
    pub extra: u64,
}

impl Record {
    /// Reads what the script wrote; `None` for anything else, however near it comes.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut fields = str::from_utf8(text).ok()?.split(' ');
        let mut number = |most| {
            let field = fields.next()?;
            let digits = field.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| field.parse::<u64>().ok())?.filter(|number| *number <= most)
        };
        let record = Self {
            seq: number(SEQ_MAX)?,
            granted: number(COUNT_MAX)?,
            live: number(COUNT_MAX)?,
            base: number(COUNT_MAX)?,
            extra: number(COUNT_MAX)?,
        };
        fields.next().is_none().then_some(record)
    }
}

/// When slots last became scarce, by the state that the registry keeps of itself: another value is news.
/// `None` for anything that the script did not write.
#[must_use]
pub fn news_of_state(state: &[u8]) -> Option<u64> {
    let mut fields = str::from_utf8(state).ok()?.split(' ');
    let news = fields.nth(9)?.parse().ok()?;
    (fields.count() == 1).then_some(news)
}

/// As the script writes it.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seq, granted, live, base, extra } = self;
        write!(f, "{seq} {granted} {live} {base} {extra}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_members_key_gives_the_fleets_name_back() {
        let [key, ..] = registry_keys("check:out");
        assert_eq!(key, "{redis-guard:check:out}:members");
        assert_eq!(fleet_of_key(key.as_bytes()).as_deref(), Some("check:out"));
    }

    #[test]
    fn a_scan_for_members_keys_finds_those_of_every_fleet_and_no_other_keys_of_theirs() {
        let pattern = members_pattern();
        let (before, after) = pattern.split_once('*').expect("any name");
        let fits = |key: &String| key.starts_with(before) && key.ends_with(after);
        assert_eq!(registry_keys("shop").each_ref().map(fits), [true, false, false]);
        assert_eq!(fleet_of_key(pattern.as_bytes()).as_deref(), Some("*"), "and nothing else");
    }

    #[test]
    fn a_key_that_no_fleet_may_have_names_none() {
        for key in [
            "{redis-guard:x}:sums".as_bytes(),
            b"{redis-guard:}:members",
            b"{redis-guard:\x1b[2J}:members",
            b"{redis-guard:\xff}:members",
            b"redis-guard:x:members",
        ] {
            assert_eq!(fleet_of_key(key), None, "{key:?}");
        }
    }

    #[test]
    fn a_record_is_read_as_it_is_written() {
        let record = Record { seq: 9, granted: 8, live: 7, base: 6, extra: COUNT_MAX };
        assert_eq!(record.to_string(), "9 8 7 6 1000000");
        assert_eq!(Record::parse(record.to_string().as_bytes()), Some(record));
    }

    #[test]
    fn the_news_are_read_from_a_state_and_from_nothing_else() {
        let state = b"9 0 4 1 1700000000000 1700000000000 0.125 1700000000001 1700000000002 1700000000003 0";
        assert_eq!(news_of_state(state), Some(1_700_000_000_003));
        for text in [
            "",
            "x",
            "1 2 3 4 5 6 7 8 9 10",
            "1 2 3 4 5 6 7 8 9 x 11",
            "1 2 3 4 5 6 7 8 9 10 11 12",
        ] {
            assert_eq!(news_of_state(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_record_is_not_read() {
        for text in [
            "",
            "5",
            "1 2 3 4",
            "1 2 3 4 5 6",
            "1  2 3 4 5",
            "1 -2 3 4 5",
            "1 +2 3 4 5",
            "1 2 3 4 x",
            "1 2 3 4 5\n",
            "1 1000001 3 4 5",
            "1000000000000001 2 3 4 5",
            "1 99999999999999999999999 3 4 5",
        ] {
            assert_eq!(Record::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Record::parse(b"1 2 3 4 \xff"), None);
    }
}
