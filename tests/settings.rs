//! Settings from a file or the environment: what is taken over, and what is said of mistakes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

mod support;

use std::collections::BTreeSet;
use std::process::Command;

use redis_guard::{AsyncCommands, GuardedPool, GuardedPoolBuilder, PoolSettings};
use serde_json::{Value, json};
use support::TestServer;
use support::examples::built;

fn read(values: Value) -> Result<PoolSettings, String> {
    serde_json::from_value(values).map_err(|error| error.to_string())
}

/// What is wrong, each by itself.
fn mistakes(values: Value) -> BTreeSet<String> {
    let error = read(values).unwrap_err();
    let listed = error.strip_prefix("invalid configuration: ").unwrap();
    listed.split("; ").map(str::to_owned).collect()
}

/// The names of the builder's setters, off its sources.
fn setters() -> Vec<String> {
    let sources =
        ["src/pool/builder.rs", "src/pool/builder/cluster.rs", "src/pool/builder/sentinel.rs"];
    let mut setters = Vec::new();
    for path in sources {
        let source = std::fs::read_to_string(path).unwrap();
        for (_, rest) in
            source.match_indices("pub fn ").map(|(at, found)| source.split_at(at + found.len()))
        {
            let (name, arguments) = rest.split_once('(').unwrap();
            if arguments.starts_with("mut self") || arguments.starts_with("self,") {
                setters.push(name.split('<').next().unwrap().to_owned());
            }
        }
    }
    assert!(setters.len() > 35, "{setters:?}");
    setters
}

#[test]
fn every_setter_has_a_key() {
    for setter in setters() {
        let key = match &*setter {
            // A value of the program's.
            "runtime" | "credentials_provider" => continue,
            "endpoint" => "endpoints",
            "tls_certificates" => "tls",
            "sentinel_tls_certificates" => "sentinel_tls",
            key => key,
        };
        let said = mistakes(json!({ "url": "redis://127.0.0.1", key: [{ "no": "such" }] }));
        assert!(said.iter().all(|said| said.starts_with(key)), "{key}: {said:?}");
        assert!(!said.iter().any(|said| said.contains("unknown")), "{key}: {said:?}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_and_no_password() {
    let said = mistakes(json!({
        "url": "redis://:hunter2@127.0.0.1",
        "pasword": "hunter2",
        "max_connections": "hunter2",
        "acquire_timeout": 250,
        "queue_limit": -1,
        "multiplex": "yes",
        "role": "primary",
        "min_limit": 0,
        "endpoints": { "checkout": { "max": 8, "reserved": 2 }, "": { "max": 1 }, "search": {} },
        "backoff": { "jitter": "some", "base": "1 fortnight" },
        "breaker": "never",
        "fleet": { "reserve": 4 },
        "nodes": ["redis://:hunter2@127.0.0.1"],
    }));
    let expected = [
        "url, sentinels and nodes exclude one another",
        "pasword is unknown",
        "max_connections is to be a whole number, 0 or more",
        "acquire_timeout is to be a time with its unit, such as \"250ms\"",
        "queue_limit is to be a whole number, 0 or more",
        "multiplex is to be true or false",
        "role is to be one of master, replica, active_replica",
        "min_limit is 0, so the last connection might be given back",
        "endpoints.checkout.reserved is unknown",
        "endpoint name \"\" is empty",
        "endpoints.search.max is missing",
        "backoff.jitter is to be one of equal, full, decorrelated, none",
        "backoff.base is to be a time with its unit, such as \"250ms\"",
        "breaker is to be a table",
        "fleet.name is missing",
    ];
    assert_eq!(said, expected.map(str::to_owned).into());
}

#[test]
fn who_says_where_the_server_is_is_one() {
    assert_eq!(
        mistakes(json!({})),
        ["url, sentinels or nodes has to say where the server is".to_owned()].into()
    );
    let said = mistakes(
        json!({ "url": "redis://127.0.0.1", "master": "mymaster", "connect_as": "redis://any" }),
    );
    assert_eq!(said.len(), 2, "{said:?}");
    let said = mistakes(json!({ "sentinels": ["redis://127.0.0.1"], "replica_reads": "prefer" }));
    assert!(said.iter().any(|said| said.starts_with("replica_reads")), "{said:?}");
    assert!(said.iter().any(|said| said.contains("no master's name")), "{said:?}");
    for right in [
        json!({ "url": "unix:///run/redis.sock" }),
        json!({ "sentinels": "redis://10.0.0.1:26379, redis://10.0.0.2:26379", "master": "mymaster" }),
        json!({ "sentinels": ["redis://10.0.0.1"], "master": "m", "sentinel_password": "x", "password": "y" }),
        json!({
            "nodes": ["redis://10.0.0.1:7000"],
            "replica_reads": "only",
            "map_address": { "10.0.0.1:7000": "nat.example.com:17000" },
        }),
    ] {
        read(right).unwrap();
    }
}

#[test]
fn a_malformed_url_is_told_without_its_password() {
    for url in ["redis://:hunter2@127.0.0.1:99999", "http://:hunter2@h", ":hunter2@h"] {
        let error = read(json!({ "url": url, "password": "hunter2" })).unwrap_err();
        assert!(error.contains("the URL is not usable") && !error.contains("hunter2"), "{error}");
    }
}

#[test]
fn nothing_shows_a_password() {
    let settings = read(json!({
        "sentinels": ["redis://:hunter2@10.0.0.1:26379"],
        "master": "mymaster",
        "sentinel_password": "hunter2",
        "connect_as": "redis://app:hunter2@any",
        "password": "hunter2",
        "max_connections": 9,
    }));
    let settings = settings.unwrap();
    let shown = format!("{settings:?} {:?}", GuardedPoolBuilder::from(settings.clone()));
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("10.0.0.1:26379") && shown.contains('9'), "{shown}");
}

#[tokio::test]
async fn the_environments_texts_make_the_same_pool_as_a_files_values() {
    let server = TestServer::start().unwrap();
    let admin = server.admin();
    assert_eq!(admin.text(&["ACL", "SETUSER", "app", "on", ">secret", "~*", "+@all"]), "OK");
    let files = json!({
        "url": server.url(),
        "username": "app",
        "password": "secret",
        "name": "shop",
        "max_connections": 9,
        "acquire_timeout": "250ms",
        "shared_lanes": 2,
        "multiplex": true,
        "endpoints": { "checkout": { "max": 4, "reserve": 2, "in_flight": 7 } },
        "default_budget": { "max": 3 },
        "backoff": { "jitter": "full", "base": "10ms", "cap": "1s" },
        "breaker": { "failures": 9, "suspected": 3, "suspected_within": "5s" },
        "fleet": { "name": "shop", "reserve": 1 },
        "client_name": "shop-1",
        "seed": 7,
    });
    let texts = json!({
        "url": server.url(),
        "username": "app",
        "password": "secret",
        "name": "shop",
        "max_connections": "9",
        "acquire_timeout": "250ms",
        "shared_lanes": "2",
        "multiplex": "true",
        "endpoints": { "checkout": { "max": "4", "reserve": "2", "in_flight": "7" } },
        "default_budget": { "max": "3" },
        "backoff": { "jitter": "full", "base": "10ms", "cap": "1s" },
        "breaker": { "failures": "9", "suspected": "3", "suspected_within": "5s" },
        "fleet": { "name": "shop", "reserve": "1" },
        "client_name": "shop-1",
        "seed": "7",
    });
    let [files, texts] = [files, texts].map(|values| read(values).unwrap());
    let by_hand = format!("{:?}", GuardedPoolBuilder::from(files.clone()));
    assert_eq!(by_hand, format!("{:?}", GuardedPoolBuilder::from(texts.clone())));
    for expected in [
        "max_connections: 9",
        "acquire_timeout: 250ms",
        "jitter: Full",
        "failures: 9",
        "seed: Some(7)",
    ] {
        assert!(by_hand.contains(expected), "{expected}: {by_hand}");
    }

    let pool = GuardedPool::from_config(texts).build().unwrap();
    let mut checkout = pool.acquire("checkout").await.unwrap();
    let user: String =
        redis_guard::redis::cmd("ACL").arg("WHOAMI").query_async(&mut checkout).await.unwrap();
    assert_eq!(user, "app");
    checkout.set::<_, _, ()>("k", "v").await.unwrap();
    let status = pool.status();
    assert_eq!((&*status.pool, status.max_connections), ("shop", 9));
    let budget =
        status.endpoints.iter().find(|endpoint| endpoint.name.as_str() == "checkout").unwrap();
    assert_eq!((budget.max, budget.reserve), (4, 2));
    assert!(admin.text(&["CLIENT", "LIST"]).contains("name=shop-1"));
}

#[test]
fn a_setter_after_the_file_wins() {
    let settings = read(json!({ "url": "redis://127.0.0.1", "max_connections": 9 })).unwrap();
    let pool = GuardedPool::from_config(settings).max_connections(5).build().unwrap();
    assert_eq!(pool.status().max_connections, 5);
}

#[cfg(feature = "tls-rustls")]
#[test]
fn certificates_are_read_when_they_are_needed_and_what_is_gone_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    let values = json!({ "url": "rediss://127.0.0.1", "tls": { "roots": roots } });
    let said = mistakes(values.clone());
    assert!(
        said.iter().all(|said| said.starts_with("tls.roots") && said.contains("roots.pem")),
        "{said:?}"
    );
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&roots, key.cert.pem()).unwrap();
    let settings = read(values).unwrap();
    GuardedPool::from_config(settings.clone()).build().unwrap();
    std::fs::remove_file(&roots).unwrap();
    let error = GuardedPool::from_config(settings).build().unwrap_err();
    assert!(error.to_string().contains("tls.roots"), "{error}");
    let said = mistakes(json!({ "url": "rediss://127.0.0.1", "tls": { "client_key": roots } }));
    assert!(said.contains("tls: client_certificate and client_key need each other"), "{said:?}");
}

/// The example, with a file and the environment as a service has them.
#[test]
fn the_example_takes_the_file_and_what_the_environment_says_otherwise() {
    let run = |variables: &[(&str, &str)]| {
        let mut example = Command::new(built("from_settings", "settings"));
        let ended = example.envs(variables.iter().copied()).output().unwrap();
        let texts = [ended.stdout, ended.stderr].map(|text| String::from_utf8(text).unwrap());
        (ended.status.success(), texts)
    };
    let (success, [out, err]) = run(&[]);
    assert!(success && out.contains("two apples, over a pool of at most 32"), "{out}{err}");
    let (success, [out, err]) = run(&[("SHOP__REDIS__MAX_CONNECTIONS", "64")]);
    assert!(success && out.contains("over a pool of at most 64"), "{out}{err}");
    let wrong = [("SHOP__REDIS__MAX_CONNECTIONS", "many"), ("SHOP__REDIS__LEAK_AFTER", "30")];
    let (success, [out, err]) = run(&wrong);
    assert!(
        !success && err.contains("max_connections") && err.contains("leak_after"),
        "{out}{err}"
    );
}
