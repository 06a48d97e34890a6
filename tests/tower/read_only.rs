//! The table of commands that are safe to repeat, held against the server's own.

use std::collections::BTreeMap;

use redis_guard::redis::Pipeline;
use redis_guard::tower::RetryRequest;

use crate::support::TestServer;
use crate::support::server::Reply;
use crate::waiting::cmd;

fn is_safe(words: &str) -> bool {
    cmd(words).is_idempotent()
}

#[test]
fn a_command_is_safe_whatever_its_case() {
    assert!(is_safe("get key") && is_safe("GeT key") && is_safe("object ENCODING key"));
    assert!(
        !is_safe("object") && !is_safe("set key get") && !is_safe("") && !is_safe("getdel key")
    );
    assert!(Pipeline::new().is_idempotent(), "nothing to run twice");
}

#[tokio::test]
async fn the_table_of_safe_commands_is_the_servers() {
    let server = TestServer::start().unwrap();
    let mut commands = BTreeMap::new();
    note(&server.admin().command(&["COMMAND"]).unwrap(), &mut commands);
    assert!(commands.len() > 300, "{}", commands.len());
    for (name, flags) in &commands {
        // Containers have no flags of their own that would matter.
        let words = name.replace('|', " ");
        let readonly = flags.iter().any(|flag| flag == "readonly");
        assert_eq!(is_safe(&words), readonly, "{words}: {flags:?}");
    }
}

/// Every command and subcommand, with its flags.
fn note(reply: &Reply, commands: &mut BTreeMap<String, Vec<String>>) {
    let Reply::Array(rows) = reply else { panic!("{reply:?}") };
    for row in rows {
        let Reply::Array(fields) = row else { panic!("{row:?}") };
        let Reply::Array(flags) = &fields[2] else { panic!("{row:?}") };
        commands.insert(fields[0].text(), flags.iter().map(Reply::text).collect());
        if let Some(subcommands) = fields.get(9) {
            note(subcommands, commands);
        }
    }
}
