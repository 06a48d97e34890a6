//! Which arguments of a command are its keys.

use std::iter;

/// Where a command's keys stand. Arguments are counted from the name, which is 0.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keys {
    /// This many, from this place on.
    Some(usize, usize),
    /// From this place on to the end, but for this many last ones.
    Rest(usize, usize),
    /// From this place on to the end; so many arguments belong to each, itself among them.
    Each(usize, usize),
    /// Behind the argument that says how many there are.
    Counted(usize),
    /// As [`Counted`](Self::Counted), with a value behind each.
    CountedPairs(usize),
    /// As [`Counted`](Self::Counted), and the first argument.
    CountedInto(usize),
    /// The first half of what follows STREAMS.
    Streams,
    /// The first argument, and what SORT's STORE names.
    Sort,
    /// The first argument, and what STORE or STOREDIST of GEORADIUS names.
    Geo,
    /// The third argument, or what follows KEYS where that is empty.
    Migrate,
}

/// Keys that stand in a row, from `first` to before `end`, every `step`th.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) first: usize,
    pub(super) end: usize,
    pub(super) step: usize,
}

impl Keys {
    /// The keys among `args`, which begin with the command's name.
    pub(super) fn of<'a>(
        self,
        args: impl Clone + ExactSizeIterator<Item = &'a [u8]>,
    ) -> impl Iterator<Item = &'a [u8]> {
        let Row { first, end, step } = self.row(args.clone());
        let alone = self.alone(args.clone()).and_then(|at| args.clone().nth(at));
        args.take(end).skip(first).step_by(step).chain(alone)
    }

    /// Where the row of keys stands, within the arguments.
    pub(super) fn row<'a>(self, args: impl Clone + ExactSizeIterator<Item = &'a [u8]>) -> Row {
        let len = args.len();
        let (first, end, step) = match self {
            Self::Some(first, many) => (first, first + many, 1),
            Self::Rest(first, spare) => (first, len.saturating_sub(spare), 1),
            Self::Each(first, step) => (first, len, step),
            Self::Counted(at) | Self::CountedInto(at) => counted(args, at, 1),
            Self::CountedPairs(at) => counted(args, at, 2),
            Self::Streams => {
                let mut options =
                    words(args, 1, &[("BLOCK", 1), ("CLAIM", 1), ("COUNT", 1), ("GROUP", 2)]);
                let streams = options.find(|(_, word)| is(word, "STREAMS"));
                let first = streams.map_or(len, |(at, _)| at + 1);
                (first, first + (len - first) / 2, 1)
            }
            Self::Sort | Self::Geo => (1, 2, 1),
            Self::Migrate if args.clone().nth(3).is_some_and(<[u8]>::is_empty) => {
                let mut options = words(args, 6, &[("AUTH", 1), ("AUTH2", 2)]);
                let keys = options.find(|(_, word)| is(word, "KEYS"));
                (keys.map_or(len, |(at, _)| at + 1), len, 1)
            }
            Self::Migrate => (3, 4, 1),
        };
        let first = first.min(len);
        Row { first, end: end.clamp(first, len), step }
    }

    /// Where the one key stands that is not in the row.
    fn alone<'a>(self, args: impl Iterator<Item = &'a [u8]>) -> Option<usize> {
        match self {
            Self::CountedInto(_) => Some(1),
            Self::Sort => words(args, 2, &[("BY", 1), ("GET", 1), ("LIMIT", 2), ("STORE", 1)])
                .filter(|(_, word)| is(word, "STORE"))
                .last()
                .map(|(at, _)| at + 1),
            Self::Geo => words(args, 5, &[("STORE", 1), ("STOREDIST", 1)])
                .filter(|(_, word)| is(word, "STORE") || is(word, "STOREDIST"))
                .last()
                .map(|(at, _)| at + 1),
            _ => None,
        }
    }
}

/// The row behind the argument `at`, which says how many keys there are.
fn counted<'a>(
    mut args: impl Iterator<Item = &'a [u8]>,
    at: usize,
    step: usize,
) -> (usize, usize, usize) {
    let many = args.nth(at).and_then(|many| std::str::from_utf8(many).ok()?.parse::<usize>().ok());
    let taken = many.unwrap_or(0).saturating_mul(step);
    (at + 1, taken.saturating_add(at + 1), step)
}

/// The option words from `from` on, with their places. `values` says how many arguments belong to a
/// word: they are passed over, since they may look like options.
fn words<'a>(
    args: impl Iterator<Item = &'a [u8]>,
    from: usize,
    values: &[(&str, usize)],
) -> impl Iterator<Item = (usize, &'a [u8])> {
    let mut args = args.enumerate().skip(from);
    iter::from_fn(move || {
        let (at, word) = args.next()?;
        let known = values.iter().find(|(name, _)| is(word, name));
        args.by_ref().take(known.map_or(0, |(_, values)| *values)).for_each(drop);
        Some((at, word))
    })
}

fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}
