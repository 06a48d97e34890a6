//! Where in a Redis Cluster a command goes, by its keys.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use redis::{Arg, Cmd};

mod combine;
mod keys;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use combine::Combine;
use keys::{Keys, Row};
use table::{Rule, rule};

/// How many slots a cluster has.
pub(crate) const SLOTS: u16 = 16_384;

/// The slot of a key: the CRC16 (XMODEM) of its hash tag, or of all of it where it has none, modulo
/// [`SLOTS`].
pub(crate) fn slot(key: &[u8]) -> u16 {
    crc16::State::<crc16::XMODEM>::calculate(hash_tag(key).unwrap_or(key)) % SLOTS
}

/// What stands between the first `{` and the first `}` after it, if anything does.
fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let after = &key[key.iter().position(|byte| *byte == b'{')? + 1..];
    let tag = &after[..after.iter().position(|byte| *byte == b'}')?];
    (!tag.is_empty()).then_some(tag)
}

/// Where a command goes in a cluster.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// It has no key: to whichever node.
    Any,
    /// All its keys are in this slot.
    Slot(u16),
    /// Its keys are in several slots, and it can be split: one command a slot.
    Split(Split),
    /// To every primary; their replies are combined.
    Primaries(Combine),
    /// To every node, replicas too; their replies are combined.
    Nodes(Combine),
    /// Its keys are in several slots, and it cannot be split.
    CrossSlot,
    /// It makes no sense over several nodes: why, and what to do instead, as the end of a sentence.
    Refused(&'static str),
}

/// A command as one command a slot.
#[derive(Clone, Debug)]
pub(crate) struct Split {
    /// In the order in which the command first names their slots.
    pub(crate) parts: Vec<Part>,
    /// How one reply is made of the parts' replies.
    pub(crate) combine: Combine,
}

/// What is asked of one slot.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) slot: u16,
    pub(crate) cmd: Cmd,
}

/// Where `cmd` goes. What is malformed goes where its first key is, or anywhere, so that the server
/// says in its own words what is wrong with it.
pub(crate) fn route(cmd: &Cmd) -> Route {
    let args = arguments(cmd);
    match rule(args.clone()) {
        Rule::Keyless => Route::Any,
        Rule::Primaries(combine) => Route::Primaries(combine),
        Rule::Nodes(combine) => Route::Nodes(combine),
        Rule::Refused(why) => Route::Refused(why),
        Rule::InSlot => named_slot(args).map_or(Route::Any, Route::Slot),
        Rule::Keys(keys) => match slots(keys, args) {
            Slots::None => Route::Any,
            Slots::One(slot) => Route::Slot(slot),
            Slots::Several => Route::CrossSlot,
        },
        Rule::Split(keys, combine) => match slots(keys, args) {
            Slots::None => Route::Any,
            Slots::One(slot) => Route::Slot(slot),
            Slots::Several => split(cmd, keys, combine),
        },
    }
}

/// The slot of all keys of an atomic pipeline: `None` where it has no key. A command that is for no
/// slot, or for several nodes, counts as one without a key.
///
/// # Errors
///
/// The keys are in several slots.
pub(crate) fn slot_of_all<'a>(
    cmds: impl IntoIterator<Item = &'a Cmd>,
) -> Result<Option<u16>, SeveralSlots> {
    let mut found = None;
    for cmd in cmds {
        let args = arguments(cmd);
        let slot = match rule(args.clone()) {
            Rule::InSlot => named_slot(args),
            Rule::Keys(keys) | Rule::Split(keys, _) => match slots(keys, args) {
                Slots::None => None,
                Slots::One(slot) => Some(slot),
                Slots::Several => return Err(SeveralSlots),
            },
            _ => None,
        };
        if slot.is_some() && found.is_some() && slot != found {
            return Err(SeveralSlots);
        }
        found = found.or(slot);
    }
    Ok(found)
}

/// Keys that should be in one slot are in several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeveralSlots;

/// The command's name and arguments.
fn arguments(cmd: &Cmd) -> impl Clone + ExactSizeIterator<Item = &[u8]> {
    cmd.args_iter().map(|arg| match arg {
        Arg::Simple(bytes) => bytes,
        _ => b"".as_slice(),
    })
}

/// The slot that `CLUSTER GETKEYSINSLOT` and its like name.
fn named_slot<'a>(mut args: impl Iterator<Item = &'a [u8]>) -> Option<u16> {
    let slot = std::str::from_utf8(args.nth(2)?).ok()?.parse().ok()?;
    (slot < SLOTS).then_some(slot)
}

enum Slots {
    None,
    One(u16),
    Several,
}

fn slots<'a>(keys: Keys, mut args: impl Clone + ExactSizeIterator<Item = &'a [u8]>) -> Slots {
    if let Keys::Some(at, 1) = keys {
        // Nearly every command: not by way of the general case, which takes twice as long.
        return args.nth(at).map_or(Slots::None, |key| Slots::One(slot(key)));
    }
    let mut slots = keys.of(args).map(slot);
    match slots.next() {
        None => Slots::None,
        Some(first) if slots.all(|slot| slot == first) => Slots::One(first),
        Some(_) => Slots::Several,
    }
}

/// One command a slot: each takes its keys with what belongs to them, and what follows the last key.
fn split(cmd: &Cmd, keys: Keys, combine: Combine) -> Route {
    let args: Vec<&[u8]> = arguments(cmd).collect();
    let Row { first, end, step } = keys.row(args.iter().copied());
    if (end - first) % step != 0 {
        // A key without its value.
        return Route::Slot(slot(args[first]));
    }
    let mut parts: Vec<Part> = Vec::new();
    let mut part_of = HashMap::new();
    let mut order = Vec::with_capacity((end - first) / step);
    for group in args[first..end].chunks(step) {
        let slot = slot(group[0]);
        let at = match part_of.entry(slot) {
            Entry::Occupied(at) => *at.get(),
            Entry::Vacant(free) => {
                let mut part = Cmd::new();
                part.arg(&args[..first]);
                parts.push(Part { slot, cmd: part });
                *free.insert(parts.len() - 1)
            }
        };
        parts[at].cmd.arg(group);
        order.push(at);
    }
    for part in &mut parts {
        part.cmd.arg(&args[end..]);
    }
    let combine = match combine {
        Combine::InOrder(_) => Combine::InOrder(order),
        other => other,
    };
    Route::Split(Split { parts, combine })
}
