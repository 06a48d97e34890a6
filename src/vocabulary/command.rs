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
            Effect::None => Self::Allowed,
            Effect::Blocks => Self::Exclusive,
            _ => Self::Refused,
        }
    }

    /// The same for a lease that shares connections while it can: what CLIENT tells of a connection is to be
    /// true of the lease's own.
    pub(crate) fn of_lease(cmd: &Cmd) -> Self {
        let name = cmd.args_iter().next();
        let is_client =
            matches!(name, Some(Arg::Simple(name)) if name.eq_ignore_ascii_case(b"CLIENT"));
        if is_client { Self::Refused } else { Self::of(cmd) }
    }

    /// The strictest of its commands'.
    pub(crate) fn of_pipeline(pipeline: &Pipeline, of: impl Fn(&Cmd) -> Self) -> Self {
        pipeline.cmd_iter().map(of).max().unwrap_or(Self::Allowed)
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

    use super::{Effect, blocking_time, effect};

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
