//! What a command does to the connection it is sent on.

use std::time::Duration;

use redis::{Arg, Cmd, Pipeline};

/// How long a command may wait on the server, by what it says itself: zero for those that do not block,
/// `None` for one that waits for ever, or whose time we cannot read.
pub(crate) fn blocking_time(cmd: &Cmd) -> Option<Duration> {
    match effect(cmd) {
        Effect::Blocks => own_timeout(cmd),
        _ => Some(Duration::ZERO),
    }
}

#[cold]
fn own_timeout(cmd: &Cmd) -> Option<Duration> {
    let args: Vec<&[u8]> = cmd
        .args_iter()
        .map(|arg| match arg {
            Arg::Simple(bytes) => bytes,
            _ => b"".as_slice(),
        })
        .collect();
    let number = |at: usize| std::str::from_utf8(args.get(at)?).ok()?.parse::<f64>().ok();
    let mut name = [0; LONGEST];
    let seconds = match upper(args.first()?, &mut name)? {
        b"BLMPOP" | b"BZMPOP" => number(1)?,
        b"WAIT" => number(2)? / 1_000.0,
        b"WAITAOF" => number(3)? / 1_000.0,
        name @ (b"XREAD" | b"XREADGROUP") => {
            // As below: a group may be called `block`.
            let named = if name == b"XREAD" { 1 } else { 4 };
            let options = args.get(named..)?;
            let block = options.iter().position(|arg| arg.eq_ignore_ascii_case(b"BLOCK"))?;
            number(named + block + 1)? / 1_000.0
        }
        _ => number(args.len().checked_sub(1)?)?,
    };
    // What is below zero the server refuses, and what is too large for a duration is for ever.
    if seconds == 0.0 { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

/// Whether a command may go over a connection that others use at the same time; the strictest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sharing {
    Allowed,
    /// It would hold up everybody behind it, so it gets a connection of its own.
    Exclusive,
    /// It changes the connection for everybody, so it is refused.
    Refused,
}

impl Sharing {
    pub(crate) fn of(cmd: &Cmd) -> Self {
        match effect(cmd) {
            // Nobody watches anything there.
            Effect::None | Effect::Unwatch => Self::Allowed,
            Effect::Blocks => Self::Exclusive,
            _ => Self::Refused,
        }
    }

    /// The same on connections of this database, of which a SELECT changes nothing.
    pub(crate) fn in_db(cmd: &Cmd, db: i64) -> Self {
        match Self::of(cmd) {
            Self::Refused if selects(cmd) == Some(db) => Self::Allowed,
            sharing => sharing,
        }
    }

    /// The same for a lease that shares connections while it can: what CLIENT and HELLO tell of a connection is
    /// to be true of the lease's own.
    pub(crate) fn of_lease(cmd: &Cmd) -> Self {
        let tells = |name: &[u8]| {
            name.eq_ignore_ascii_case(b"CLIENT") || name.eq_ignore_ascii_case(b"HELLO")
        };
        let name = cmd.args_iter().next();
        let tells = matches!(name, Some(Arg::Simple(name)) if tells(name));
        if tells { Self::Refused } else { Self::of(cmd) }
    }

    /// The strictest of its commands'. A transaction that begins and ends in it leaves nothing behind, and
    /// nothing comes in between: it counts as what is in it.
    pub(crate) fn of_pipeline(pipeline: &Pipeline, of: impl Fn(&Cmd) -> Self) -> Self {
        let (mut open, mut strictest) = (false, Self::Allowed);
        for cmd in pipeline.cmd_iter() {
            match bracket(cmd) {
                // An atomic one has its own around it.
                Some(Bracket::Begin) if !open && !pipeline.is_transaction() => open = true,
                Some(Bracket::End) if open => open = false,
                _ => strictest = strictest.max(of(cmd)),
            }
        }
        if open { Self::Refused } else { strictest }
    }
}

/// The beginning and the end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bracket {
    Begin,
    End,
}

/// Which of them the command is, if the server takes it: with an argument it is an error.
fn bracket(cmd: &Cmd) -> Option<Bracket> {
    let bracket = match effect(cmd) {
        Effect::Multi => Bracket::Begin,
        Effect::EndTransaction => Bracket::End,
        _ => return None,
    };
    cmd.args_iter().nth(1).is_none().then_some(bracket)
}

/// Whether a pipeline is one transaction, from its MULTI to its EXEC.
pub(crate) fn is_whole_transaction(pipeline: &Pipeline) -> bool {
    let last = pipeline.len().saturating_sub(1);
    !pipeline.is_transaction()
        && last > 0
        && pipeline.cmd_iter().enumerate().all(|(at, cmd)| match bracket(cmd) {
            Some(Bracket::Begin) => at == 0,
            Some(Bracket::End) => at == last,
            None => at != 0 && at != last,
        })
}

/// The database that a SELECT names.
fn selects(cmd: &Cmd) -> Option<i64> {
    let mut args = cmd.args_iter();
    match (args.next()?, args.next()?, args.next()) {
        (Arg::Simple(name), Arg::Simple(db), None) if name.eq_ignore_ascii_case(b"SELECT") => {
            std::str::from_utf8(db).ok()?.parse().ok()
        }
        _ => None,
    }
}

/// The replies that are wanted of a pipeline: how many to skip, how many to keep.
pub(crate) fn replies(pipeline: &Pipeline) -> (usize, usize) {
    match pipeline.is_transaction() {
        true => (pipeline.len() + 1, 1),
        false => (0, pipeline.len()),
    }
}

/// Whether the server flags a command, or its subcommand, `readonly`, so that sending it twice does
/// no harm. As of Redis 8.
pub(crate) fn is_read_only(cmd: &Cmd) -> bool {
    let mut args = cmd.args_iter().map(|arg| match arg {
        Arg::Simple(bytes) => bytes,
        _ => b"".as_slice(),
    });
    let Some(name) = args.next().and_then(|name| std::str::from_utf8(name).ok()) else {
        return false;
    };
    let name = name.to_ascii_lowercase();
    if READ_ONLY.binary_search(&name.as_str()).is_ok() {
        return true;
    }
    let subcommand = args.next().unwrap_or_default().to_ascii_lowercase();
    let subcommands: &[&str] = match name.as_str() {
        "object" => &["encoding", "freq", "idletime", "refcount"],
        "memory" => &["usage"],
        "xinfo" => &["consumers", "groups", "stream"],
        _ => return false,
    };
    subcommands.iter().any(|known| known.as_bytes() == subcommand)
}

/// The commands that the server flags `readonly`, sorted; a test compares it with a real one's.
#[rustfmt::skip]
const READ_ONLY: [&str; 87] = [
    "bitcount", "bitfield_ro", "bitpos", "dbsize", "digest", "dump", "eval_ro", "evalsha_ro", "exists",
    "expiretime", "fcall_ro", "geodist", "geohash", "geopos", "georadius_ro", "georadiusbymember_ro",
    "geosearch", "get", "getbit", "getrange", "hexists", "hexpiretime", "hget", "hgetall", "hkeys",
    "hlen", "hmget", "hpexpiretime", "hpttl", "hrandfield", "hscan", "hstrlen", "httl", "hvals", "keys",
    "lcs", "lindex", "llen", "lolwut", "lpos", "lrange", "mget", "pexpiretime", "pfcount", "pttl",
    "randomkey", "scan", "scard", "sdiff", "sinter", "sintercard", "sismember", "smembers", "smismember",
    "sort_ro", "srandmember", "sscan", "strlen", "substr", "sunion", "touch", "ttl", "type", "xlen",
    "xpending", "xrange", "xread", "xrevrange", "zcard", "zcount", "zdiff", "zinter", "zintercard",
    "zlexcount", "zmscore", "zrandmember", "zrange", "zrangebylex", "zrangebyscore", "zrank", "zrevrange",
    "zrevrangebylex", "zrevrangebyscore", "zrevrank", "zscan", "zscore", "zunion",
];

/// What a command does to the connection it is sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    Blocks,
    Watch,
    Unwatch,
    Multi,
    EndTransaction,
    Session,
    /// For the next command only.
    Asking,
    Poison,
}

/// The longest command name below.
const LONGEST: usize = 12;

pub(crate) fn effect(cmd: &Cmd) -> Effect {
    let mut args = cmd.args_iter().map(|arg| match arg {
        Arg::Simple(bytes) => bytes,
        _ => b"".as_slice(),
    });
    let mut name = [0; LONGEST];
    let Some(name) = args.next().and_then(|arg| upper(arg, &mut name)) else {
        return Effect::None;
    };
    match name {
        b"WATCH" => Effect::Watch,
        b"UNWATCH" => Effect::Unwatch,
        b"MULTI" => Effect::Multi,
        b"EXEC" | b"DISCARD" => Effect::EndTransaction,
        // Without a protocol it only tells.
        b"HELLO" if args.next().is_none() => Effect::None,
        b"SELECT" | b"AUTH" | b"HELLO" | b"RESET" | b"READONLY" | b"READWRITE" => Effect::Session,
        b"ASKING" => Effect::Asking,
        b"CLIENT" => of_client(args.next().unwrap_or_default()),
        b"SUBSCRIBE" | b"PSUBSCRIBE" | b"SSUBSCRIBE" | b"UNSUBSCRIBE" | b"PUNSUBSCRIBE"
        | b"SUNSUBSCRIBE" | b"MONITOR" | b"QUIT" | b"SYNC" | b"PSYNC" | b"REPLCONF" => {
            Effect::Poison
        }
        b"SCRIPT" if args.next().is_some_and(|arg| arg.eq_ignore_ascii_case(b"DEBUG")) => {
            Effect::Poison
        }
        b"BLPOP" | b"BRPOP" | b"BLMOVE" | b"BRPOPLPUSH" | b"BLMPOP" | b"BZPOPMIN" | b"BZPOPMAX"
        | b"BZMPOP" | b"WAIT" | b"WAITAOF" => Effect::Blocks,
        b"XREAD" | b"XREADGROUP" => {
            // GROUP, and two names that may be anything.
            let named = if name == b"XREAD" { 0 } else { 3 };
            let args = args.skip(named);
            let mut options = args.take_while(|arg| !arg.eq_ignore_ascii_case(b"STREAMS"));
            match options.any(|arg| arg.eq_ignore_ascii_case(b"BLOCK")) {
                true => Effect::Blocks,
                false => Effect::None,
            }
        }
        _ => Effect::None,
    }
}

fn of_client(subcommand: &[u8]) -> Effect {
    let mut name = [0; LONGEST];
    match upper(subcommand, &mut name) {
        // Without replies the driver cannot tell which reply is whose, and RESET does not take the
        // others back.
        Some(b"REPLY" | b"NO-EVICT" | b"NO-TOUCH" | b"CAPA") => Effect::Poison,
        None if subcommand.eq_ignore_ascii_case(b"IMPORT-SOURCE") => Effect::Poison,
        Some(b"SETNAME" | b"TRACKING" | b"CACHING") => Effect::Session,
        _ => Effect::None,
    }
}

/// `name` in upper case, or `None` where it is longer than any that matters.
pub(super) fn upper<'a, const MOST: usize>(
    name: &[u8],
    buffer: &'a mut [u8; MOST],
) -> Option<&'a [u8]> {
    let buffer = buffer.get_mut(..name.len())?;
    buffer.copy_from_slice(name);
    buffer.make_ascii_uppercase();
    Some(buffer)
}

#[cfg(test)]
mod tests {
    use redis::cmd;

    use std::time::Duration;

    use super::{
        Effect, Sharing, blocking_time, effect, is_read_only, is_whole_transaction, replies,
    };

    fn command(line: &str) -> redis::Cmd {
        let mut words = line.split(' ');
        let mut cmd = cmd(words.next().unwrap());
        words.for_each(|word| {
            cmd.arg(word);
        });
        cmd
    }

    #[test]
    fn blocking_commands_are_known() {
        let blocks = |line: &str| effect(&command(line)) == Effect::Blocks;
        assert!(blocks("BLPOP k 0") && blocks("XREAD BLOCK 0 STREAMS s $") && blocks("wait 1 0"));
        assert!(!blocks("XREAD STREAMS block 0") && !blocks("LPOP k"));
        assert!(blocks("XREADGROUP GROUP streams c BLOCK 0 STREAMS s >"));
        assert!(!blocks("XREADGROUP GROUP block c STREAMS s >"));
    }

    #[test]
    fn what_a_command_does_to_its_connection_is_known_by_its_name_or_its_subcommands() {
        for (effect_of_all, lines) in [
            (Effect::None, &["GET k", "HELLO", "CLIENT", "CLIENT ID", "SCRIPT LOAD debug"][..]),
            (Effect::None, &["a-command-of-somebodys-module", "CLIENT a-subcommand-of-theirs"]),
            (Effect::Watch, &["watch k"]),
            (Effect::Unwatch, &["UNWATCH"]),
            (Effect::Multi, &["Multi"]),
            (Effect::EndTransaction, &["EXEC", "discard"]),
            (Effect::Session, &["SELECT 1", "AUTH p", "HELLO 3", "RESET", "READONLY", "READWRITE"]),
            (Effect::Session, &["CLIENT SETNAME x", "client tracking on", "CLIENT CACHING YES"]),
            (Effect::Asking, &["ASKING"]),
            (Effect::Poison, &["SUBSCRIBE c", "PUNSUBSCRIBE", "MONITOR", "quit", "PSYNC ? -1"]),
            (Effect::Poison, &["CLIENT REPLY OFF", "CLIENT no-evict on", "CLIENT NO-TOUCH ON"]),
            (Effect::Poison, &["CLIENT CAPA redirect", "CLIENT import-source on"]),
            (Effect::Poison, &["SCRIPT debug yes"]),
        ] {
            for line in lines {
                assert_eq!(effect(&command(line)), effect_of_all, "{line}");
            }
        }
    }

    #[test]
    fn only_what_changes_nothing_may_be_sent_twice() {
        for line in ["get k", "ZUNION 1 k", "OBJECT freq k", "memory USAGE k", "XINFO STREAM s"] {
            assert!(is_read_only(&command(line)), "{line}");
        }
        for line in ["SET k v", "OBJECT HELP", "OBJECT", "MEMORY PURGE", "XINFO", "SCRIPT USAGE"] {
            assert!(!is_read_only(&command(line)), "{line}");
        }
    }

    #[test]
    fn of_a_transaction_one_reply_is_wanted_behind_those_that_say_queued() {
        let mut pipeline = pipeline(&["INCR n", "INCR n", "GET n"]);
        assert_eq!(replies(&pipeline), (0, 3));
        // MULTI is answered, too.
        assert_eq!(replies(pipeline.atomic()), (4, 1));
    }

    fn pipeline(lines: &[&str]) -> redis::Pipeline {
        let mut pipeline = redis::pipe();
        for line in lines {
            pipeline.add_command(command(line));
        }
        pipeline
    }

    #[test]
    fn a_transaction_that_begins_and_ends_in_a_pipeline_counts_as_what_is_in_it() {
        use Sharing::{Allowed, Exclusive, Refused};
        for (lines, sharing, whole) in [
            (&["MULTI", "INCR n", "EXEC"][..], Allowed, true),
            (&["multi", "INCR n", "discard"], Allowed, true),
            (&["MULTI", "EXEC"], Allowed, true),
            (&["GET k", "MULTI", "INCR n", "EXEC", "MULTI", "EXEC"], Allowed, false),
            (&["MULTI", "BLPOP k 0", "EXEC"], Exclusive, true),
            (&["MULTI", "SELECT 1", "EXEC"], Refused, true),
            (&["MULTI", "WATCH k", "EXEC"], Refused, true),
            (&["WATCH k", "MULTI", "EXEC"], Refused, false),
            (&["MULTI", "MULTI", "EXEC"], Refused, false),
            (&["MULTI", "INCR n"], Refused, false),
            (&["EXEC", "MULTI"], Refused, false),
            (&["MULTI", "INCR n", "EXEC now"], Refused, false),
            (&["MULTI now", "INCR n", "EXEC"], Refused, false),
            (&["MULTI"], Refused, false),
            (&["EXEC"], Refused, false),
            (&["INCR n", "INCR n"], Allowed, false),
            (&[], Allowed, false),
        ] {
            let pipeline = pipeline(lines);
            assert_eq!(Sharing::of_pipeline(&pipeline, Sharing::of), sharing, "{lines:?}");
            assert_eq!(is_whole_transaction(&pipeline), whole, "{lines:?}");
        }
        let mut atomic = pipeline(&["MULTI", "INCR n", "EXEC"]);
        atomic.atomic();
        assert_eq!(Sharing::of_pipeline(&atomic, Sharing::of), Refused, "it is within another");
        assert!(!is_whole_transaction(&atomic));
    }

    #[test]
    fn a_select_of_the_own_database_changes_nothing() {
        for (line, db, sharing) in [
            ("SELECT 0", 0, Sharing::Allowed),
            ("select 3", 3, Sharing::Allowed),
            ("SELECT 1", 0, Sharing::Refused),
            ("SELECT", 0, Sharing::Refused),
            ("SELECT 0 0", 0, Sharing::Refused),
            ("SELECT zero", 0, Sharing::Refused),
            ("HELLO", 0, Sharing::Allowed),
            ("HELLO 3", 3, Sharing::Refused),
            ("UNWATCH", 0, Sharing::Allowed),
            ("WATCH 0", 0, Sharing::Refused),
            ("BLPOP 0 0", 0, Sharing::Exclusive),
        ] {
            assert_eq!(Sharing::in_db(&command(line), db), sharing, "{line}");
        }
        assert_eq!(Sharing::of_lease(&command("hello")), Sharing::Refused, "of its own connection");
    }

    #[test]
    fn they_say_how_long_they_wait() {
        for (line, millis) in [
            ("BLPOP a b 1.5", 1_500),
            ("brpop 7 2", 2_000),
            ("BLMOVE a b LEFT RIGHT 1e1", 10_000),
            ("BRPOPLPUSH a b 3", 3_000),
            ("BZPOPMIN 7 0.25", 250),
            ("BLMPOP 4 1 k LEFT COUNT 9", 4_000),
            ("bzmpop 0.5 1 k MIN", 500),
            ("WAIT 1 70", 70),
            ("WAITAOF 1 2 30", 30),
            ("XREAD COUNT 5 block 40 STREAMS s 0", 40),
            ("XREADGROUP GROUP g c COUNT 5 BLOCK 60 STREAMS s >", 60),
            ("XREADGROUP GROUP block block BLOCK 80 STREAMS s >", 80),
            ("GET k", 0),
        ] {
            let time = blocking_time(&command(line));
            assert_eq!(time, Some(Duration::from_millis(millis)), "{line}");
        }
    }

    #[test]
    fn who_waits_for_ever_or_says_nothing_that_we_understand_has_no_limit() {
        for line in ["BLPOP k 0", "BLPOP k 0.0", "WAIT 1 0", "XREAD BLOCK 0 STREAMS s $"]
            .into_iter()
            .chain(["BLPOP k inf", "BLPOP k nan", "BLPOP k 1e300", "BLPOP k -1", "BLPOP", "WAIT"])
            .chain(["XREAD BLOCK", "BLMPOP", "BLPOP k 0x10"])
        {
            assert_eq!(blocking_time(&command(line)), None, "{line}");
        }
    }
}
