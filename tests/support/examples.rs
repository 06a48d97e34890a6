//! Where the examples are, which a test runs as processes of their own.

use std::path::PathBuf;
use std::process::Command;

/// The example as `cargo test` builds it; with `--test` alone that builds none, so it is built here then, with
/// the features that it needs.
pub(crate) fn built(name: &str, features: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.ancestors().nth(2).expect("a test is in target/<profile>/deps");
    let program = profile.join("examples").join(name);
    if !program.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--example", name, "--features", features]);
        build.args(profile.ends_with("release").then_some("--release"));
        build.arg("--target-dir").arg(profile.parent().expect("a profile is in target"));
        let done = build.current_dir(env!("CARGO_MANIFEST_DIR")).status();
        assert!(done.is_ok_and(|status| status.success()), "{build:?}");
    }
    program
}
