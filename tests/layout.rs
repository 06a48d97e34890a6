//! The layout of `src/`: who may use whom, and how long a function may be.
//!
//! A module uses only those that stand before it in `src/lib.rs`, and a file of `src/pool/` only
//! those that stand before it in [`POOL`]. Whatever names another module counts: `use` lines and
//! paths in the code, followed through re-exports to the module that defines the name. What only
//! tests or the docs need does not count.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

use std::fs;
use std::path::Path;

#[path = "layout/functions.rs"]
mod functions;
#[path = "layout/tokens.rs"]
mod tokens;
#[path = "layout/tree.rs"]
mod tree;

use functions::long_functions;
use tree::Tree;

/// The files of `src/pool/`, bottom to top. `mod.rs`, which only re-exports, comes after them all.
const POOL: &[&str] = &[
    "intake",
    "latest",
    "leaks",
    "residue",
    "store",
    "tasks",
    "topology::place",
    "topology::member",
    "topology::sentinel",
    "topology::settings",
    "topology::single",
    "topology",
    "companion",
    "sockets",
    "replies",
    "sweeps",
    "waiting",
    "context",
    "demotion",
    "shared::in_flight",
    "shared::lanes",
    "watch::mailbox",
    "watch::steering",
    "state",
    "state::succession",
    "shared::sharers",
    "node",
    "factory",
    "cluster::map",
    "cluster::members",
    "cluster",
    "cluster::told",
    "servers",
    "heard",
    "patience",
    "credentials",
    "moving",
    "slot",
    "dialer",
    "lease",
    "acquire",
    "handle",
    "shared::keeper",
    "shared::flight",
    "shared",
    "multiplexed",
    "pubsub::silence",
    "pubsub::subscriptions",
    "pubsub",
    "watch::member",
    "watch::reserved",
    "watch::sending",
    "watch::thaw",
    "watch",
    "status",
    "maintenance",
    "warm",
    "cluster::ask",
    "cluster::publish",
    "cluster::keeper",
    "cluster::carrier",
    "cluster::pieces",
    "cluster::router",
    "guarded_connection",
    "shared_connection",
    "guarded_pool",
    "transaction",
    "books",
    "face",
    "builder::inherited",
    "builder",
    "builder::build",
    "builder::from_deadpool",
    "builder::cluster",
    "builder::sentinel",
];

#[test]
fn modules_use_only_what_stands_below_them() {
    let tree = Tree::of(&sources());
    assert_none(&tree.upward(&tree.declared));
}

#[test]
fn files_of_the_pool_use_only_what_stands_below_them() {
    assert_none(&Tree::of(&sources()).upward(&pool_order()));
}

#[test]
fn every_file_of_the_pool_has_one_place_in_the_order() {
    let mut listed = pool_order();
    listed.sort_unstable();
    let tree = Tree::of(&sources());
    let files: Vec<&String> =
        tree.files.iter().filter(|m| format!("{m}::").starts_with("pool::")).collect();
    assert_eq!(listed.iter().collect::<Vec<_>>(), files);
}

#[test]
fn functions_are_short_or_say_why_not() {
    let long = |(path, text): &(String, String)| long_functions(path, text);
    assert_none(&sources().iter().flat_map(long).collect::<Vec<_>>());
}

/// `POOL` as paths from the crate root, with `mod.rs` at its end.
fn pool_order() -> Vec<String> {
    POOL.iter().map(|file| format!("pool::{file}")).chain(["pool".to_owned()]).collect()
}

#[track_caller]
fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "{} in all:\n{}", problems.len(), problems.join("\n"));
}

/// Every Rust file of the crate: its path from `src/`, and its text.
fn sources() -> Vec<(String, String)> {
    let rust = files().into_iter().filter(|path| path.ends_with(".rs"));
    rust.map(|path| (path.clone(), fs::read_to_string(root().join("src").join(path)).unwrap()))
        .collect()
}

/// Every file in `src/`, by its path from there.
fn files() -> Vec<String> {
    fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{path}/"), found);
            } else {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join("src"), "", &mut found);
    found.sort_unstable();
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
