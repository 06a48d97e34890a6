//! The inputs that are kept, as tests.

use std::fs;
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> =
        fs::read_dir(&folder).expect("a corpus").map(|file| file.expect("a file").path()).collect();
    inputs.sort();
    assert!(inputs.len() >= 3, "{} has {} inputs", folder.display(), inputs.len());
    for input in inputs {
        // The last one printed is the one that fails.
        println!("{}", input.display());
        run(&fs::read(&input).expect("a file"));
    }
}

#[test]
fn client_list() {
    replay("client_list", super::client_list::run);
}

#[test]
fn info() {
    replay("info", super::info::run);
}

#[test]
fn pool() {
    replay("pool", super::pool::run);
}

#[test]
fn registry() {
    replay("registry", super::registry::run);
}

#[test]
fn url() {
    replay("url", super::url::run);
}
