//! The guides name tests: all of them exist.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The tests of the crate, and the modules that have them, by the names that `cargo test` prints after that of their
/// target: `lib` for the library's own.
#[derive(Default)]
struct Tests {
    tests: BTreeSet<String>,
    modules: BTreeSet<String>,
}

impl Tests {
    fn of_the_crate() -> Self {
        let mut all = Self::default();
        all.read(&Path::new(ROOT).join("src/lib.rs"), "lib", true);
        for entry in fs::read_dir(Path::new(ROOT).join("tests")).unwrap() {
            let path = entry.unwrap().path();
            let target = path.file_stem().unwrap().to_str().unwrap().to_owned();
            match path.join("main.rs") {
                main if main.exists() => all.read(&main, &target, true),
                _ if path.extension().is_some_and(|end| end == "rs") => {
                    all.read(&path, &target, true);
                }
                _ => {}
            }
        }
        all
    }

    /// Reads a file as rustfmt leaves it. `heads`: the modules that it declares are files beside it.
    fn read(&mut self, file: &Path, module: &str, heads: bool) {
        self.modules.insert(module.to_owned());
        let text = fs::read_to_string(file).unwrap();
        let (mut inline, mut is_test, mut at): (Vec<(usize, &str)>, bool, Option<&str>) =
            (Vec::new(), false, None);
        for line in text.lines() {
            let code = line.trim_start();
            let indent = line.len() - code.len();
            let within = |name: &str| {
                let inner: Vec<_> = inline.iter().map(|(_, name)| *name).collect();
                [&[module], &*inner, &[name]].concat().join("::")
            };
            if code.starts_with("#[test]") || code.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some(path) = between(code, "#[path = \"", "\"]") {
                at = Some(path);
            } else if let Some(name) = function(code) {
                if std::mem::take(&mut is_test) {
                    self.tests.insert(within(name));
                }
            } else if let Some(name) = module_named(code, " {") {
                self.modules.insert(within(name));
                inline.push((indent, name));
            } else if let Some(name) = module_named(code, ";") {
                let path = within(name);
                let at = at.take().map(Path::new).map(|at| file.with_file_name("").join(at));
                if let Some(next) = at.or_else(|| file_of(file, name, heads)) {
                    let heads = next.ends_with("mod.rs");
                    self.read(&next, &path, heads);
                }
            } else if code == "}" && inline.last().is_some_and(|(at, _)| *at == indent) {
                inline.pop();
            }
        }
    }

    /// Of what is named, what there is not.
    fn missing<'a>(&self, named: &BTreeSet<&'a str>) -> Vec<&'a str> {
        let unknown = |name: &&str| !self.tests.contains(*name) && !self.modules.contains(*name);
        named.iter().copied().filter(unknown).collect()
    }
}

fn between<'a>(code: &'a str, start: &str, end: &str) -> Option<&'a str> {
    code.strip_prefix(start)?.strip_suffix(end)
}

fn function(code: &str) -> Option<&str> {
    let code = code.strip_prefix("async ").unwrap_or(code).strip_prefix("fn ")?;
    code.split(['(', '<']).next()
}

fn module_named<'a>(code: &'a str, end: &str) -> Option<&'a str> {
    let visible = code.strip_prefix("pub ").or_else(|| code.strip_prefix("pub(crate) "));
    visible.unwrap_or(code).strip_prefix("mod ")?.strip_suffix(end)
}

fn file_of(parent: &Path, name: &str, heads: bool) -> Option<PathBuf> {
    let folder = if heads { parent.with_file_name("") } else { parent.with_extension("") };
    let candidates = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
    candidates.into_iter().find(|file| file.exists())
}

/// What a text sets as code that is a path into `tests/`, or into the library's own tests.
fn named<'a>(text: &'a str, targets: &BTreeSet<&str>) -> BTreeSet<&'a str> {
    let code = text.split('`').skip(1).step_by(2);
    code.filter(|code| code.split("::").next().is_some_and(|first| targets.contains(first)))
        .filter(|code| code.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':'))
        .collect()
}

fn targets(tests: &Tests) -> BTreeSet<&str> {
    tests.modules.iter().map(String::as_str).filter(|module| !module.contains("::")).collect()
}

#[test]
fn every_test_that_reliability_names_exists_and_no_promise_is_without_one() {
    let tests = Tests::of_the_crate();
    let guide = fs::read_to_string(Path::new(ROOT).join("src/guide/reliability.md")).unwrap();
    let targets = targets(&tests);
    assert_eq!(tests.missing(&named(&guide, &targets)), [""; 0]);
    for promise in guide.split("\n# ").skip(1) {
        let (title, text) = promise.split_once('\n').unwrap();
        assert!(!named(text, &targets).is_empty(), "no test of {title:?} is named");
    }
}

#[test]
fn a_test_that_there_is_not_is_missed() {
    let tests = Tests::of_the_crate();
    let guide = "`guide::a_test_that_there_is_not_is_missed`, `guide::nothing_of_the_kind`, `guide`, `other::thing`";
    let named = named(guide, &targets(&tests));
    assert_eq!(named.len(), 3, "{named:?}");
    assert_eq!(tests.missing(&named), ["guide::nothing_of_the_kind"]);
}
