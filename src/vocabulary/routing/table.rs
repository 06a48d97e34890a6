//! The commands of Redis 6.2 to 8 and Valkey, and of the modules that come with them, that have
//! arguments, and not just one key as the first of them. Who is not here has, as most commands of
//! other modules.

use super::Combine;
use super::keys::Keys;
use crate::vocabulary::command::upper;

/// What decides where a command goes.
#[derive(Debug)]
pub(super) enum Rule {
    Keyless,
    Keys(Keys),
    /// One command a slot, where the keys are in several.
    Split(Keys, Combine),
    /// Its second argument is the number of a slot.
    InSlot,
    Primaries(Combine),
    Nodes(Combine),
    Refused(&'static str),
}

const ONE_NODE: &str = "it is meant for one node: send it on a lease on that node, from `acquire_for` with a key of the node's";
const SCAN: &str = "it walks the keys of one node: send it on a lease on that node, from `acquire_for` with a key of the node's";

/// The longest name below.
const LONGEST: usize = 20;

/// The rule of a command; `args` begin with its name.
pub(super) fn rule<'a>(mut args: impl Iterator<Item = &'a [u8]>) -> Rule {
    // Long because it is a table.
    let mut name = [0; LONGEST];
    let Some(name) = args.next().and_then(|arg| upper(arg, &mut name)) else {
        return Rule::Keys(Keys::Some(1, 1));
    };
    match name {
        b"DEL" | b"EXISTS" | b"TOUCH" | b"UNLINK" => Rule::Split(Keys::Rest(1, 0), Combine::Sum),
        b"MGET" => Rule::Split(Keys::Rest(1, 0), Combine::InOrder(Vec::new())),
        b"MSET" => Rule::Split(Keys::Each(1, 2), Combine::First),
        b"JSON.MGET" => Rule::Split(Keys::Rest(1, 1), Combine::InOrder(Vec::new())),
        b"JSON.MSET" => Rule::Split(Keys::Each(1, 3), Combine::First),

        b"BLMOVE" | b"BRPOPLPUSH" | b"COPY" | b"GEOSEARCHSTORE" | b"LCS" | b"LMOVE" | b"RENAME"
        | b"RENAMENX" | b"RPOPLPUSH" | b"SMOVE" | b"TS.CREATERULE" | b"TS.DELETERULE"
        | b"ZRANGESTORE" => Rule::Keys(Keys::Some(1, 2)),
        b"PFCOUNT" | b"PFMERGE" | b"SDIFF" | b"SDIFFSTORE" | b"SINTER" | b"SINTERSTORE"
        | b"SSUBSCRIBE" | b"SUNION" | b"SUNIONSTORE" | b"SUNSUBSCRIBE" | b"WATCH" => {
            Rule::Keys(Keys::Rest(1, 0))
        }
        b"BITOP" => Rule::Keys(Keys::Rest(2, 0)),
        b"BLPOP" | b"BRPOP" | b"BZPOPMAX" | b"BZPOPMIN" => Rule::Keys(Keys::Rest(1, 1)),
        b"MSETNX" => Rule::Keys(Keys::Each(1, 2)),
        b"TS.MADD" => Rule::Keys(Keys::Each(1, 3)),
        b"LMPOP" | b"SINTERCARD" | b"ZDIFF" | b"ZINTER" | b"ZINTERCARD" | b"ZMPOP" | b"ZUNION" => {
            Rule::Keys(Keys::Counted(1))
        }
        b"BLMPOP" | b"BZMPOP" | b"EVAL" | b"EVALSHA" | b"EVALSHA_RO" | b"EVAL_RO" | b"FCALL"
        | b"FCALL_RO" => Rule::Keys(Keys::Counted(2)),
        b"CMS.MERGE" | b"TDIGEST.MERGE" | b"ZDIFFSTORE" | b"ZINTERSTORE" | b"ZUNIONSTORE" => {
            Rule::Keys(Keys::CountedInto(2))
        }
        b"MSETEX" => Rule::Keys(Keys::CountedPairs(1)),
        b"XREAD" | b"XREADGROUP" => Rule::Keys(Keys::Streams),
        b"SORT" => Rule::Keys(Keys::Sort),
        b"GEORADIUS" | b"GEORADIUSBYMEMBER" => Rule::Keys(Keys::Geo),
        b"MIGRATE" => Rule::Keys(Keys::Migrate),
        // An index is no key, but its name leads to the node that has the cursor.
        b"FT.CURSOR" | b"PFDEBUG" => Rule::Keys(Keys::Some(2, 1)),

        b"ACL" | b"CLUSTER" | b"COMMANDLOG" | b"CONFIG" | b"FUNCTION" | b"JSON.DEBUG"
        | b"LATENCY" | b"MEMORY" | b"MODULE" | b"OBJECT" | b"PUBSUB" | b"SCRIPT" | b"SLOWLOG"
        | b"XGROUP" | b"XINFO" => of_subcommand(name, args.next().unwrap_or_default()),

        b"DBSIZE" => Rule::Primaries(Combine::Sum),
        b"FLUSHALL" | b"FLUSHDB" => Rule::Primaries(Combine::First),
        b"KEYS" => Rule::Primaries(Combine::Concat),
        b"RANDOMKEY" => Rule::Primaries(Combine::FirstNotNil),
        b"WAIT" | b"WAITAOF" => Rule::Primaries(Combine::Least),
        b"SCAN" => Rule::Refused(SCAN),
        b"FAILOVER" | b"REPLICAOF" | b"SHUTDOWN" | b"SLAVEOF" => Rule::Refused(ONE_NODE),

        // INFO, LATENCY LATEST and their like tell of the one node that is asked. PUBLISH reaches
        // the subscribers of every node.
        b"AUTH" | b"BGSAVE" | b"CLIENT" | b"COMMAND" | b"DEBUG" | b"ECHO" | b"HELLO"
        | b"HOTKEYS" | b"INFO" | b"LOLWUT" | b"PING" | b"PSUBSCRIBE" | b"PSYNC" | b"PUBLISH"
        | b"PUNSUBSCRIBE" | b"QUIT" | b"REPLCONF" | b"SELECT" | b"SFLUSH" | b"SUBSCRIBE"
        | b"SWAPDB" | b"TS.MGET" | b"TS.MRANGE" | b"TS.MREVRANGE" | b"TS.QUERYINDEX"
        | b"UNSUBSCRIBE" => Rule::Keyless,
        _ => Rule::Keys(Keys::Some(1, 1)),
    }
}

#[cold]
fn of_subcommand(name: &[u8], subcommand: &[u8]) -> Rule {
    let mut buffer = [0; LONGEST];
    let subcommand = upper(subcommand, &mut buffer).unwrap_or_default();
    match (name, subcommand) {
        (b"MEMORY", b"USAGE")
        | (b"JSON.DEBUG", b"MEMORY")
        | (b"OBJECT", b"ENCODING" | b"FREQ" | b"IDLETIME" | b"REFCOUNT")
        | (b"XGROUP", b"CREATE" | b"CREATECONSUMER" | b"DELCONSUMER" | b"DESTROY" | b"SETID")
        | (b"XINFO", b"CONSUMERS" | b"GROUPS" | b"STREAM") => Rule::Keys(Keys::Some(2, 1)),
        (b"CLUSTER", b"COUNTKEYSINSLOT" | b"GETKEYSINSLOT") => Rule::InSlot,
        (
            b"CLUSTER",
            b"ADDSLOTS" | b"ADDSLOTSRANGE" | b"BUMPEPOCH" | b"DELSLOTS" | b"DELSLOTSRANGE"
            | b"FAILOVER" | b"FLUSHSLOTS" | b"FORGET" | b"MIGRATESLOTS" | b"REPLICATE" | b"RESET"
            | b"SET-CONFIG-EPOCH" | b"SETSLOT",
        ) => Rule::Refused(ONE_NODE),

        (b"FUNCTION", b"DELETE" | b"FLUSH" | b"LOAD" | b"RESTORE") => {
            Rule::Primaries(Combine::First)
        }
        (b"ACL", b"DELUSER" | b"LOAD" | b"SAVE" | b"SETUSER")
        | (b"CONFIG", b"RESETSTAT" | b"REWRITE" | b"SET")
        | (b"MEMORY", b"PURGE")
        | (b"MODULE", b"LOAD" | b"LOADEX" | b"UNLOAD")
        | (b"COMMANDLOG" | b"SLOWLOG", b"RESET")
        // Scripts are not replicated, and replicas run the read-only ones.
        | (b"SCRIPT", b"FLUSH" | b"LOAD") => Rule::Nodes(Combine::First),
        (b"SCRIPT", b"EXISTS") => Rule::Nodes(Combine::Least),
        (b"FUNCTION" | b"SCRIPT", b"KILL") => Rule::Nodes(Combine::FirstSuccess),
        (b"COMMANDLOG" | b"SLOWLOG", b"GET") => Rule::Nodes(Combine::Concat),
        (b"COMMANDLOG" | b"SLOWLOG", b"LEN")
        | (b"LATENCY", b"RESET")
        | (b"PUBSUB", b"NUMPAT" | b"NUMSUB" | b"SHARDNUMSUB") => Rule::Nodes(Combine::Sum),
        (b"PUBSUB", b"CHANNELS" | b"SHARDCHANNELS") => Rule::Nodes(Combine::Union),
        _ => Rule::Keyless,
    }
}
