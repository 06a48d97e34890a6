//! Where Chromium is, and how it is started: headless, and without a word to anybody but us.
#![allow(
    dead_code,
    reason = "every test, example and benchmark uses its own part of the support code"
)]

use std::env;
use std::path::PathBuf;

pub(crate) const FLAGS: [&str; 15] = [
    "--headless",
    "--hide-scrollbars",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-breakpad",
    "--remote-debugging-pipe",
    "about:blank",
];

/// With a pipe to talk over it wants to read from file 3, and to write to file 4.
pub(crate) const SHELL: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#;

/// `$CHROMIUM`, or the first of its names on the path.
pub(crate) fn find() -> Option<PathBuf> {
    let named = env::var_os("CHROMIUM").filter(|path| !path.is_empty());
    named.map(PathBuf::from).or_else(|| on_path(&["chromium", "chromium-browser", "google-chrome"]))
}

/// The first program of one of these names.
pub(crate) fn on_path(names: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut programs =
        env::split_paths(&path).flat_map(|dir| names.iter().map(move |name| dir.join(name)));
    programs.find(|program| program.is_file())
}

/// The bytes of a picture, as the protocol sends them.
pub(crate) fn from_base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u8> = text.trim_end_matches('=').bytes().map(digit).collect();
    let mut bytes = Vec::new();
    for four in digits.chunks(4) {
        let bits = four.iter().fold(0, |bits, digit| bits << 6 | u32::from(*digit));
        let bits = bits << (6 * (4 - four.len()));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes
}
