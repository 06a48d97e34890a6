//! What is published: the files of the package, and what README and manifest say.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

const README: &str = include_str!("../README.md");
const MANIFEST: &str = include_str!("../Cargo.toml");

fn cargo(arguments: &[&str]) -> String {
    let mut cargo = Command::new(env!("CARGO"));
    let Output { status, stdout, stderr } =
        cargo.args(arguments).current_dir(root()).output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

#[test]
fn the_package_is_what_a_user_builds_from_and_no_more() {
    let listed = cargo(&["package", "--list", "--allow-dirty", "--offline"]);
    let listed: BTreeSet<&str> = listed.lines().collect();
    let tracked = sources_and_texts();
    for file in &tracked {
        assert!(listed.contains(&**file), "{file} is not in the package");
    }
    let made = [".cargo_vcs_info.json", "Cargo.toml.orig", "Cargo.lock"];
    for file in listed {
        assert!(tracked.contains(file) || made.contains(&file), "{file} is in the package");
    }
}

/// The sources and the texts.
fn sources_and_texts() -> BTreeSet<String> {
    fn walk(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.path() {
                path if path.is_dir() => walk(&path, found),
                path => {
                    let path = path.strip_prefix(root()).unwrap().to_str().unwrap();
                    found.insert(path.to_owned());
                }
            }
        }
    }
    let texts = ["Cargo.toml", "README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"];
    let mut found = BTreeSet::from(texts.map(str::to_owned));
    walk(&root().join("src"), &mut found);
    found
}

#[test]
fn the_readmes_table_has_the_features_of_the_manifest() {
    let section = |text: &'static str, from: &str, to: &str| {
        let (_, rest) = text.split_once(from).unwrap();
        rest.split(to).next().unwrap()
    };
    let declared: BTreeSet<&str> = section(MANIFEST, "[features]\n", "\n[")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.split_once(" = ")?.0))
        .filter(|feature| *feature != "default")
        .collect();
    let told: BTreeSet<&str> = section(README, "\n## Features\n", "\n## ")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(feature, _)| feature)
        .collect();
    assert_eq!(told, declared);
    assert!(declared.len() > 5, "{declared:?}");
}

/// Where docs.rs and crates.io show it, nothing lies beside it.
#[test]
fn the_readmes_links_and_pictures_lead_somewhere_from_anywhere() {
    let markdown = README.match_indices("](").map(|(at, found)| (at + found.len(), ')'));
    let html = README.match_indices("src=\"").map(|(at, found)| (at + found.len(), '"'));
    for (at, end) in markdown.chain(html) {
        let link = README[at..].split(end).next().unwrap();
        let is_absolute = link.starts_with("https://") || link.starts_with('#');
        assert!(is_absolute, "{link} is relative");
        let here = "https://github.com/redis-guard/redis-guard/blob/main/";
        let raw = "https://raw.githubusercontent.com/redis-guard/redis-guard/main/";
        if let Some(path) = link.strip_prefix(here).or(link.strip_prefix(raw)) {
            let path = path.split('#').next().unwrap();
            assert!(root().join(path).exists(), "{link} leads nowhere");
        }
    }
}

#[test]
fn the_readme_begins_with_what_the_manifest_says() {
    let line = MANIFEST.lines().find_map(|line| line.strip_prefix("description = ")).unwrap();
    let description = line.trim_matches('"').replace("\\\"", "\"");
    let paragraphs = README.split("\n## ").next().unwrap().replace('\n', " ");
    let (_, claims) = description.split_once(": ").unwrap();
    for claim in claims.split(", over ").next().unwrap().split(", ") {
        let claim = claim.strip_prefix("and ").unwrap_or(claim);
        assert!(paragraphs.contains(claim), "{claim:?} is not in the README's first lines");
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
