//! Rust source as tokens, as far as its layout is concerned.

/// A word, `::`, or another character of the code. A literal is `"`, once for each of its lines.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) line: usize,
}

pub(crate) fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// By how much a token changes the depth.
pub(crate) fn nesting(token: &str) -> i32 {
    match token {
        "(" | "[" | "{" => 1,
        ")" | "]" | "}" => -1,
        _ => 0,
    }
}

/// The code of a file, without comments.
pub(crate) fn tokens(source: &str) -> Vec<Token<'_>> {
    let (mut rest, mut line) = (source, 1);
    let mut tokens = Vec::new();
    while !rest.is_empty() {
        let (kind, length) = first(rest);
        let (text, after) = rest.split_at(length);
        let last = line + text.matches('\n').count();
        match kind {
            Kind::Blank => {}
            Kind::Code => tokens.push(Token { text, line }),
            Kind::Literal => tokens.extend((line..=last).map(|line| Token { text: "\"", line })),
        }
        (rest, line) = (after, last);
    }
    tokens
}

enum Kind {
    /// White space, or a comment.
    Blank,
    Code,
    Literal,
}

/// What a piece of source begins with, and how many bytes of it that is.
fn first(source: &str) -> (Kind, usize) {
    if let Some(length) = literal(source) {
        (Kind::Literal, length)
    } else if source.starts_with("//") {
        (Kind::Blank, source.find('\n').unwrap_or(source.len()))
    } else if source.starts_with("/*") {
        (Kind::Blank, block_comment(source))
    } else if source.starts_with("::") {
        (Kind::Code, 2)
    } else if is_word(source) {
        let end = source.find(|c: char| !c.is_alphanumeric() && c != '_');
        (Kind::Code, end.unwrap_or(source.len()))
    } else {
        let c = source.chars().next().expect("there is some left");
        (if c.is_whitespace() { Kind::Blank } else { Kind::Code }, c.len_utf8())
    }
}

/// Block comments may hold others.
fn block_comment(source: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < source.len() {
        let (change, length) = match &source.as_bytes()[at..] {
            [b'/', b'*', ..] => (1, 2),
            [b'*', b'/', ..] => (-1, 2),
            _ => (0, 1),
        };
        depth += change;
        at += length;
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of the string or character that `source` begins with.
fn literal(source: &str) -> Option<usize> {
    let quoted = source.trim_start_matches(['b', 'c']);
    if let Some(raw) = quoted.strip_prefix('r')
        && let text = raw.trim_start_matches('#')
        && text.starts_with('"')
    {
        let end = format!("\"{}", &raw[..raw.len() - text.len()]);
        return Some(source.len() - text.len() + 1 + text[1..].find(&end)? + end.len());
    }
    let mut chars = quoted.chars();
    let quote = match (chars.next(), chars.next(), chars.next()) {
        (Some('"'), ..) => '"',
        // A lifetime has no second quote.
        (Some('\''), Some('\\'), _) | (Some('\''), _, Some('\'')) => '\'',
        _ => return None,
    };
    let mut is_escaped = false;
    for (i, c) in quoted.char_indices().skip(1) {
        if c == quote && !is_escaped {
            return Some(source.len() - quoted.len() + i + 1);
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    None
}
