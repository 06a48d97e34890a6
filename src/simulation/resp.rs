//! The protocol, as far as the scripted servers speak it.

/// A command: its words.
pub(super) type Words = Vec<Vec<u8>>;

/// Takes the first command out of `input`; `None` while it is not complete.
pub(super) fn take_command(input: &mut Vec<u8>) -> Option<Words> {
    let mut rest = input.as_slice();
    let count = number(&mut rest, b'*')?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let length = number(&mut rest, b'$')?;
        words.push(rest.get(..length)?.to_vec());
        rest = rest.get(length + 2..)?;
    }
    let used = input.len() - rest.len();
    input.drain(..used);
    Some(words)
}

/// The number in a line that begins so.
fn number(rest: &mut &[u8], prefix: u8) -> Option<usize> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    assert_eq!(rest[0], prefix, "clients send arrays of strings");
    let digits = std::str::from_utf8(&rest[1..end - 1]).expect("digits");
    *rest = &rest[end + 1..];
    Some(digits.parse().expect("a number"))
}

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
