//! The guide's diffs are those of the files.

use std::fs;
use std::path::Path;

/// A file of the crate, in lines.
fn lines(path: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

/// The guide's diffs, in lines, without the fences.
fn diffs() -> Vec<Vec<String>> {
    let guide = lines("src/guide/migrating.md").join("\n");
    let blocks = guide.split("```").skip(1).step_by(2);
    let diffs = blocks.filter_map(|block| block.strip_prefix("diff\n--- "));
    diffs.map(|diff| format!("--- {diff}").lines().map(str::to_owned).collect()).collect()
}

/// What a unified diff makes of these lines; an error where it is not one of them.
fn patched(before: &[String], hunks: &[String]) -> Result<Vec<String>, String> {
    let (mut after, mut at) = (Vec::new(), 0);
    for line in hunks {
        if let Some(range) = line.strip_prefix("@@ -") {
            let start = range.split([',', ' ']).next().and_then(|start| start.parse().ok());
            let start: usize = start.ok_or_else(|| format!("no range: {line}"))?;
            let kept = before.get(at..start - 1).ok_or_else(|| format!("out of order: {line}"))?;
            after.extend_from_slice(kept);
            at = start - 1;
            continue;
        }
        // Of an empty line of context a fence may have lost the space.
        let (sign, text) = line.split_at_checked(1).unwrap_or((" ", ""));
        if sign != "+" {
            let found = before.get(at).map(String::as_str);
            if found != Some(text) {
                return Err(format!("line {} is {found:?}, and not {text:?}", at + 1));
            }
            at += 1;
        }
        match sign {
            "+" | " " => after.push(text.to_owned()),
            "-" => {}
            _ => return Err(format!("no line of a diff: {line}")),
        }
    }
    after.extend_from_slice(&before[at..]);
    Ok(after)
}

#[test]
fn every_diff_in_the_guide_makes_of_the_service_before_the_one_after() {
    let diffs = diffs();
    assert_eq!(diffs.len(), 3);
    for diff in diffs {
        let before = diff[0].strip_prefix("--- ").unwrap();
        let after = diff[1].strip_prefix("+++ ").unwrap();
        assert!(before.ends_with("/before.rs") && after.ends_with("/after.rs"), "{before} {after}");
        let made = patched(&lines(before), &diff[2..]);
        assert!(
            made == Ok(lines(after)),
            "{:?}: put the output of `diff -U1 {before} {after}` into the guide",
            made.err()
        );
        let removed: Vec<_> = diff[2..].iter().filter_map(|line| line.strip_prefix('-')).collect();
        let mut added = diff[2..].iter().filter_map(|line| line.strip_prefix('+'));
        assert!(added.all(|line| line.trim().is_empty() || !removed.contains(&line)), "{diff:#?}");
    }
}

#[test]
fn a_diff_of_another_file_is_noticed() {
    let text = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    let before = text(&["one", "two", "three"]);
    let hunks = text(&["@@ -1,2 +1,2 @@", " one", "-two", "+2"]);
    assert_eq!(patched(&before, &hunks), Ok(text(&["one", "2", "three"])));
    assert!(patched(&text(&["one", "zwei", "three"]), &hunks).is_err());
    assert!(patched(&text(&["one"]), &hunks).is_err());
    assert!(patched(&before, &text(&["@@ -9,1 +9,1 @@", " nine"])).is_err());
}
