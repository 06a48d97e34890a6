//! What is made of the command line's own description.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::run::Doctor;
use crate::support::skip;

fn printed(words: &[&str]) -> String {
    let ended = Doctor::words(words).run();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""), "{ended:#?}");
    ended.stdout
}

/// What bash would offer after these words.
fn offered(words: &str) -> String {
    let last = words.split(' ').count() - 1;
    let script = format!(
        "{}\nCOMP_WORDS=({words} '')\nCOMP_CWORD={}\n_redis__guard redis-guard '' {}\necho \"${{COMPREPLY[@]}}\"",
        printed(&["completions", "bash"]),
        last + 1,
        words.split(' ').next_back().unwrap_or_default(),
    );
    let mut bash = Command::new("bash")
        .args(["--norc", "-s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = bash.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bash_completes_commands_and_flags() {
    let commands = offered("redis-guard");
    for command in ["doctor", "plan", "watch", "completions", "man"] {
        assert!(commands.contains(command), "{command}: {commands}");
    }
    let flags = offered("redis-guard doctor");
    for flag in ["--idle-after", "--wait", "--output"] {
        assert!(flags.contains(flag), "{flag}: {flags}");
    }
}

#[test]
fn every_shell_has_its_script_and_another_word_is_usage() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(printed(&["completions", shell]).contains("redis-guard"), "{shell}");
    }
    assert_eq!(Doctor::words(&["completions", "cmd"]).run().code, 64);
    assert_eq!(Doctor::words(&["completions"]).run().code, 64);
}

#[test]
fn there_is_a_man_page_of_all_and_of_each_command() {
    let page = printed(&["man"]);
    assert!(page.contains(".TH redis-guard 1"), "{page}");
    assert!(page.contains("redis\\-guard\\-doctor(1)"), "{page}");
    let doctor = printed(&["man", "doctor"]);
    assert!(doctor.contains(".TH redis-guard-doctor 1"), "{doctor}");
    assert!(doctor.contains("\\-\\-idle\\-after") && doctor.contains("REDISCLI_AUTH"), "{doctor}");
    assert_eq!(Doctor::words(&["man", "nobody"]).run().code, 64);

    if Command::new("groff").arg("--version").output().is_err() {
        skip("groff is not installed");
        return;
    }
    let mut groff = Command::new("groff");
    groff.args(["-man", "-Tascii", "-ww"]).stdin(Stdio::piped());
    let mut groff = groff.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    groff.stdin.take().unwrap().write_all(doctor.as_bytes()).unwrap();
    let output = groff.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("Examine servers"), "{output:?}");
}
