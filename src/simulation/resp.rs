//! The protocol, as far as the scripted servers speak it.

pub(super) use crate::dial::memory::{Words, take_command};

pub(super) fn text(words: &[Vec<u8>], at: usize) -> String {
    words.get(at).map(|word| String::from_utf8_lossy(word).into_owned()).unwrap_or_default()
}

pub(super) fn simple(text: &str) -> Vec<u8> {
    format!("+{text}\r\n").into_bytes()
}

pub(super) fn error(text: &str) -> Vec<u8> {
    format!("-{text}\r\n").into_bytes()
}

pub(super) fn int(number: u64) -> Vec<u8> {
    format!(":{number}\r\n").into_bytes()
}

pub(super) fn bulk(text: &str) -> Vec<u8> {
    format!("${}\r\n{text}\r\n", text.len()).into_bytes()
}

/// What is not there, as an array or as a string.
pub(super) fn nil(resp3: bool, array: bool) -> Vec<u8> {
    match (resp3, array) {
        (true, _) => b"_\r\n".to_vec(),
        (false, true) => b"*-1\r\n".to_vec(),
        (false, false) => b"$-1\r\n".to_vec(),
    }
}

pub(super) fn array(items: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    aggregate('*', items, 1)
}

/// Names and values: a map where the protocol has such.
pub(super) fn map(resp3: bool, items: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    if resp3 { aggregate('%', items, 2) } else { array(items) }
}

/// What nobody has asked for.
pub(super) fn push(resp3: bool, items: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    aggregate(if resp3 { '>' } else { '*' }, items, 1)
}

fn aggregate(prefix: char, items: impl IntoIterator<Item = Vec<u8>>, each: usize) -> Vec<u8> {
    let items: Vec<_> = items.into_iter().collect();
    let mut all = format!("{prefix}{}\r\n", items.len() / each).into_bytes();
    all.extend(items.concat());
    all
}
