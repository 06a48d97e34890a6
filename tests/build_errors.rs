//! What `build()` says to a configuration that cannot work: everything that is wrong with it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

use std::time::Duration;

use redis_guard::server::Role;
use redis_guard::{
    Backoff, Breaker, Budget, Endpoint, Fleet, Guard, GuardBuilder, GuardedPool,
    GuardedPoolBuilder, ReplicaReads,
};

const URL: &str = "redis://127.0.0.1:6379";

/// The most of whatever a limit counts.
const MOST: usize = 1_000_000;

/// What is wrong with `builder`.
fn problems(builder: GuardedPoolBuilder) -> Vec<String> {
    builder.build().err().map(|error| error.problems().to_vec()).unwrap_or_default()
}

/// One problem, with all of these words in it.
#[track_caller]
fn one_problem(builder: GuardedPoolBuilder, words: &[&str]) {
    let problems = problems(builder);
    let [problem] = problems.as_slice() else { panic!("one problem expected: {problems:?}") };
    for word in words {
        assert!(problem.contains(word), "{word:?} is not in {problem:?}");
    }
}

#[test]
fn a_plain_configuration_builds_without_a_runtime_or_a_server() {
    assert_eq!(problems(GuardedPool::builder(URL)), Vec::<String>::new());
}

#[test]
fn a_malformed_url_is_reported() {
    for url in ["", "localhost", "http://localhost", "redis://localhost:99999", "redis://h/x"] {
        let problems = problems(GuardedPool::builder(url));
        assert_eq!(problems.len(), 1, "{url:?}: {problems:?}");
    }
}

#[test]
fn a_malformed_url_is_reported_without_its_password() {
    for url in
        ["redis://:s3cret@localhost:99999", "redis://u:s3cret@h/x", "http://:s3cret@h", ":s3cret@h"]
    {
        let error = GuardedPool::builder(url).build().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
    }
}

#[cfg(not(any(feature = "tls-rustls", feature = "tls-native-tls")))]
#[test]
fn a_url_that_needs_tls_names_the_feature() {
    let words = ["tls-rustls", "tls-native-tls", "redis-guard"];
    one_problem(GuardedPool::builder("rediss://localhost"), &words);
    one_problem(GuardedPool::cluster(["rediss://localhost"]), &words);
    one_problem(GuardedPool::sentinel(["rediss://localhost"], "mymaster"), &words);
    one_problem(GuardedPool::sentinel(["redis://h"], "m").connect_as("rediss://any"), &words);
}

/// Without its certificate check, TLS keeps out nobody: a build says that it wants that.
#[cfg(feature = "tls-rustls")]
#[test]
fn an_insecure_url_needs_a_feature_that_full_does_not_have() {
    let insecure = GuardedPool::builder("rediss://localhost#insecure");
    if cfg!(feature = "tls-rustls-insecure") {
        assert_eq!(problems(insecure), Vec::<String>::new());
    } else {
        one_problem(insecure, &["insecure"]);
    }
}

#[test]
fn a_limit_of_zero_is_reported() {
    one_problem(GuardedPool::builder(URL).max_connections(0), &["max_connections"]);
}

/// What the guard's builder says.
fn problems_of(guard: GuardBuilder) -> Vec<String> {
    guard.build().err().map(|error| error.problems().to_vec()).unwrap_or_default()
}

#[test]
fn every_limit_beyond_all_use_is_reported_by_name_and_with_its_bound() {
    for most in [MOST + 1, usize::MAX / 2, usize::MAX] {
        let pool = || GuardedPool::builder(URL);
        one_problem(pool().max_connections(most), &["max_connections", "1000000"]);
        one_problem(pool().shared_lanes(most), &["shared_lanes", "1024"]);
        one_problem(pool().min_limit(most), &["min_limit", "16"]);
        one_problem(pool().queue_limit(most), &["queue_limit", "1000000"]);
        one_problem(pool().fleet(Fleet::named("f").reserve(most)), &["fleet", "1000000"]);
        one_problem(pool().endpoint("cart", Budget::max(most)), &["cart", "max", "1000000"]);
        let in_flight = Budget::max(1).in_flight(most);
        one_problem(pool().default_budget(in_flight), &["default", "in_flight", "1000000"]);
        let reserve = Budget::max(1).reserve(most);
        assert!(!problems(pool().endpoint("cart", reserve)).is_empty());

        for (name, guard) in [
            ("max_in_flight", Guard::builder().max_in_flight(most)),
            ("queue_limit", Guard::builder().queue_limit(most)),
            ("max", Guard::builder().default_budget(Budget::max(most))),
        ] {
            let problems = problems_of(guard);
            let [problem] = problems.as_slice() else { panic!("{name}: {problems:?}") };
            assert!(problem.contains(name) && problem.contains("1000000"), "{problem}");
        }
    }
}

#[test]
fn every_limit_may_be_as_large_as_its_bound() {
    let budget = Budget::max(MOST).reserve(MOST).in_flight(MOST);
    let pool = GuardedPool::builder(URL).max_connections(MOST).min_limit(MOST).queue_limit(MOST);
    let pool = pool.endpoint("cart", budget).fleet(Fleet::named("f").reserve(MOST));
    assert_eq!(problems(pool.shared_lanes(1024).min_idle(MOST)), Vec::<String>::new());
    let guard = Guard::builder().max_in_flight(MOST).queue_limit(MOST).endpoint("cart", budget);
    assert_eq!(problems_of(guard), Vec::<String>::new());
}

#[test]
fn settings_that_only_compare_take_any_value() {
    let never = Breaker::default()
        .max_clients(u32::MAX)
        .suspected(u32::MAX, Duration::MAX)
        .failures(u32::MAX);
    let pool = GuardedPool::builder(URL).breaker(never).min_idle(usize::MAX).seed(u64::MAX);
    assert_eq!(problems(pool), Vec::<String>::new());
}

#[test]
fn every_duration_beyond_all_use_is_reported_by_name() {
    let long = Duration::MAX;
    let of = GuardedPool::builder;
    for (name, builder) in [
        ("acquire_timeout", of(URL).acquire_timeout(long)),
        ("connect_timeout", of(URL).connect_timeout(long)),
        ("response_timeout", of(URL).response_timeout(long)),
        ("link_timeout", of(URL).link_timeout(long)),
        ("leak_after", of(URL).leak_after(long)),
        ("revoke_after", of(URL).revoke_after(long)),
        ("idle_timeout", of(URL).idle_timeout(long)),
        ("max_lifetime", of(URL).max_lifetime(long)),
        ("drain_timeout", of(URL).drain_timeout(long)),
        ("backoff", of(URL).backoff(Backoff::without_jitter(long, long))),
    ] {
        one_problem(builder, &[name, "a year"]);
    }
    for guard in [
        Guard::builder().acquire_timeout(long),
        Guard::builder().backoff(Backoff::decorrelated_jitter(Duration::from_secs(1), long)),
    ] {
        assert_eq!(problems_of(guard).len(), 1);
    }
}

#[test]
fn the_name_of_the_shared_connections_takes_no_budget() {
    for name in ["shared-lanes", Endpoint::LANES.as_str()].map(str::to_owned) {
        let words = ["shared-lanes", "shared connections"];
        one_problem(GuardedPool::builder(URL).endpoint(name.clone(), Budget::max(1)), &words);
        let problems = problems_of(Guard::builder().endpoint(name, Budget::max(1)));
        assert!(words.iter().all(|word| problems[0].contains(word)), "{problems:?}");
    }
}

#[test]
fn a_floor_of_zero_or_above_the_limit_is_reported() {
    one_problem(GuardedPool::builder(URL).min_limit(0), &["min_limit"]);
    let above = GuardedPool::builder(URL).max_connections(8).min_limit(9);
    one_problem(above, &["min_limit 9", "max_connections 8"]);
    assert!(GuardedPool::builder(URL).max_connections(1).build().is_ok(), "the default fits any");
}

#[test]
fn a_fleet_with_a_name_that_cannot_be_a_key_is_reported() {
    for name in ["", "two words", "{tag}", "caf\u{e9}", &"x".repeat(65)] {
        one_problem(GuardedPool::builder(URL).fleet(Fleet::named(name)), &["fleet", "name"]);
    }
}

#[test]
fn a_fleet_without_the_watch_is_reported() {
    let blind = GuardedPool::builder(URL).fleet(Fleet::named("shop")).watch(false);
    one_problem(blind, &["fleet", "watch"]);
}

#[test]
fn a_guards_problems_are_reported_at_once() {
    let guard = Guard::builder().name("").max_in_flight(0).queue_limit(0);
    let error = guard.endpoint("cart", Budget::max(1).reserve(2)).build().unwrap_err();
    assert_eq!(error.problems().len(), 5, "{error}");
}

#[test]
fn a_budget_of_zero_is_reported_with_its_endpoint() {
    one_problem(GuardedPool::builder(URL).endpoint("cart", Budget::max(0)), &["cart", "max"]);
}

#[test]
fn a_default_budget_of_zero_is_reported() {
    one_problem(GuardedPool::builder(URL).default_budget(Budget::max(0)), &["default", "max"]);
}

#[test]
fn a_reserve_above_its_max_is_reported_with_both() {
    let builder = GuardedPool::builder(URL).endpoint("cart", Budget::max(2).reserve(3));
    one_problem(builder, &["cart", "2", "3"]);
}

#[test]
fn reserves_above_the_total_are_reported() {
    let builder = GuardedPool::builder(URL)
        .max_connections(5)
        .endpoint("a", Budget::max(3).reserve(3))
        .endpoint("b", Budget::max(3).reserve(3));
    one_problem(builder, &["reserve", "6", "5"]);
}

#[test]
fn reserves_that_take_everything_are_no_mistake() {
    let builder = GuardedPool::builder(URL)
        .max_connections(6)
        .endpoint("a", Budget::max(3).reserve(3))
        .endpoint("b", Budget::max(3).reserve(3));
    assert_eq!(problems(builder), Vec::<String>::new());
}

#[test]
fn an_empty_endpoint_name_is_reported() {
    one_problem(GuardedPool::builder(URL).endpoint("", Budget::max(1)), &["endpoint", "empty"]);
}

#[test]
fn a_control_character_in_an_endpoint_name_is_reported_without_being_printed() {
    for name in ["a\nb", "a\0b", "a\x1b[31mb", "a\u{7f}b"] {
        let problems = problems(GuardedPool::builder(URL).endpoint(name, Budget::max(1)));
        let [problem] = problems.as_slice() else { panic!("{name:?}: {problems:?}") };
        assert!(problem.contains("control") && !problem.chars().any(char::is_control), "{problem}");
    }
}

#[test]
fn an_endpoint_given_twice_is_reported() {
    let builder = GuardedPool::builder(URL).endpoint("cart", Budget::max(1));
    one_problem(builder.endpoint("cart", Budget::max(2)), &["cart", "two budgets"]);
}

#[test]
fn a_reserve_for_endpoints_without_a_name_is_reported() {
    let builder = GuardedPool::builder(URL).default_budget(Budget::max(2).reserve(1));
    one_problem(builder, &["default_budget", "reserve"]);
}

#[test]
fn a_queue_of_zero_is_reported() {
    one_problem(GuardedPool::builder(URL).queue_limit(0), &["queue_limit"]);
}

#[test]
fn names_that_logs_and_client_list_cannot_show_are_reported() {
    for name in ["", "a\nb"] {
        one_problem(GuardedPool::builder(URL).name(name), &["name"]);
    }
    for name in ["", "two words", "a\nb", "n\u{e4}me"] {
        one_problem(GuardedPool::builder(URL).client_name(name), &["client_name"]);
    }
}

#[test]
fn what_a_plain_handshake_leaves_out_cannot_be_asked_for() {
    let plain = |url| GuardedPool::builder(url).plain_handshake(true);
    one_problem(plain(URL).client_name("api"), &["client_name", "plain_handshake"]);
    one_problem(plain("redis://127.0.0.1/?protocol=resp3"), &["plain_handshake", "RESP3"]);
}

#[test]
fn every_duration_of_zero_is_reported_by_name() {
    let zero = Duration::ZERO;
    let of = GuardedPool::builder;
    let builders = [
        ("connect_timeout", of(URL).connect_timeout(zero)),
        ("response_timeout", of(URL).response_timeout(zero)),
        ("link_timeout", of(URL).link_timeout(zero)),
        ("leak_after", of(URL).leak_after(zero)),
        ("revoke_after", of(URL).revoke_after(zero)),
        ("idle_timeout", of(URL).idle_timeout(zero)),
        ("max_lifetime", of(URL).max_lifetime(zero)),
        ("backoff", of(URL).backoff(Backoff::equal_jitter(zero, zero))),
    ];
    for (name, builder) in builders {
        one_problem(builder, &[name]);
    }
}

#[test]
fn an_acquire_timeout_of_zero_means_never_to_wait() {
    let builder = GuardedPool::builder(URL).acquire_timeout(Duration::ZERO);
    assert_eq!(problems(builder), Vec::<String>::new());
}

#[test]
fn a_breaker_that_would_trip_before_anything_failed_is_reported() {
    one_problem(GuardedPool::builder(URL).breaker(Breaker::default().failures(0)), &["breaker"]);
}

#[test]
fn sentinels_that_cannot_be_asked_are_reported() {
    let sentinel = || GuardedPool::sentinel(["redis://127.0.0.1:26379"], "mymaster");
    assert_eq!(problems(sentinel()), Vec::<String>::new());
    let none: [&str; 0] = [];
    one_problem(GuardedPool::sentinel(none, "mymaster"), &["no sentinel is given"]);
    let urls = ["redis://127.0.0.1:26379", "http://127.0.0.1:26379", "redis://:s3cret@h:99999"];
    let unusable = problems(GuardedPool::sentinel(urls, "mymaster").max_connections(0));
    assert_eq!(unusable.len(), 3, "{unusable:?}");
    assert!(unusable[1..].iter().all(|problem| problem.contains("a sentinel's URL")));
    assert!(!format!("{unusable:?}").contains("s3cret"), "{unusable:?}");
    for name in ["", "my master", "my\nmaster"] {
        one_problem(GuardedPool::sentinel(["redis://h:26379"], name), &["is no master's name"]);
    }
    one_problem(sentinel().sentinel_client_name("a b"), &["sentinel_client_name"]);
    one_problem(sentinel().connect_as("unix:///tmp/redis.sock"), &["connect_as", "Unix socket"]);
    one_problem(sentinel().connect_as("redis://h/x"), &["the URL is not usable"]);
}

#[test]
fn what_only_sentinels_have_is_reported_where_there_are_none() {
    one_problem(GuardedPool::builder(URL).connect_as(URL), &["connect_as", "no sentinels"]);
    one_problem(GuardedPool::builder(URL).sentinel_client_name("x"), &["sentinel_client_name"]);
}

#[test]
fn what_is_wrong_with_a_cluster_is_reported() {
    let cluster = || GuardedPool::cluster(["redis://127.0.0.1:7000"]);
    assert_eq!(problems(cluster().replica_reads(ReplicaReads::Prefer)), Vec::<String>::new());
    let none: [&str; 0] = [];
    one_problem(GuardedPool::cluster(none), &["no node of the cluster is given"]);
    let urls = ["redis://h:7000", "http://h", "redis://:s3cret@h:99999", "unix:///tmp/r.sock"];
    let unusable = problems(GuardedPool::cluster(urls).max_connections(0));
    assert_eq!(unusable.len(), 4, "{unusable:?}");
    assert!(!format!("{unusable:?}").contains("s3cret"), "{unusable:?}");
    one_problem(GuardedPool::cluster(["redis://h:7000/1"]), &["no database but 0"]);
    one_problem(cluster().role(Role::Replica), &["role", "replica_reads"]);
    one_problem(cluster().connect_as(URL), &["connect_as", "a cluster"]);
    for good in ["10.0.0.1:7000", "10.0.0.1", "::1", "[::1]:7000", "node-1.example.com:7000"] {
        assert_eq!(problems(cluster().map_address(good, good)), Vec::<String>::new(), "{good}");
    }
    for bad in ["", ":7000", "h:", "h:0", "h:x", "h:99999", "[::1", "[::1]7000", "a b:1"] {
        one_problem(cluster().map_address(bad, "h"), &["map_address", &format!("{bad:?}")]);
        one_problem(cluster().map_address("h", bad), &["map_address", &format!("{bad:?}")]);
    }
    one_problem(GuardedPool::builder(URL).map_address("a", "b"), &["map_address", "no cluster"]);
    one_problem(GuardedPool::builder(URL).replica_reads(ReplicaReads::Only), &["replica_reads"]);
}

#[test]
fn deadpools_configuration_of_a_cluster_is_taken() {
    use redis_guard::deadpool_redis::cluster::Config;
    let config = Config::from_urls(["redis://h:7000".to_owned()]);
    assert_eq!(problems(GuardedPool::from_config(config)), Vec::<String>::new());
    assert_eq!(problems(GuardedPool::from_config(Config::default())), Vec::<String>::new());
    let both = Config { urls: Some(vec!["redis://h".to_owned()]), ..Config::default() };
    one_problem(GuardedPool::from_config(both), &["both urls and connections"]);
}

#[test]
fn a_fleet_of_readers_of_a_replica_is_reported() {
    let builder = GuardedPool::builder(URL).role(Role::Replica).fleet(Fleet::named("fleet"));
    one_problem(builder, &["fleet", "a replica takes no writes"]);
}

/// What deadpool-redis's configuration of sentinels says is taken over, or reported as its own would be.
#[test]
fn deadpools_configuration_of_sentinels_is_taken() {
    use redis_guard::deadpool_redis::sentinel::{Config, SentinelServerType};
    let config = |url: &str| {
        Config::from_urls([url.to_owned()], "mymaster".to_owned(), SentinelServerType::Replica)
    };
    assert_eq!(problems(GuardedPool::from_config(Config::default())), Vec::<String>::new());
    assert_eq!(problems(GuardedPool::from_config(config("redis://h"))), Vec::<String>::new());
    let fleet = GuardedPool::from_config(config("redis://h")).fleet(Fleet::named("fleet"));
    one_problem(fleet, &["a replica takes no writes"]);
    one_problem(GuardedPool::from_config(config("nonsense")), &["a sentinel's URL"]);
    let both = Config { urls: Some(vec!["redis://h".to_owned()]), ..Config::default() };
    one_problem(GuardedPool::from_config(both), &["both urls and connections"]);
}

#[test]
fn one_error_lists_every_problem() {
    let builder = GuardedPool::builder("redis://localhost:99999")
        .max_connections(0)
        .endpoint("", Budget::max(1))
        .endpoint("tab\there", Budget::max(1))
        .endpoint("cart", Budget::max(2).reserve(3))
        .leak_after(Duration::ZERO)
        .connect_timeout(Duration::ZERO);

    let error = builder.build().unwrap_err();

    assert!(error.problems().len() >= 7, "{error}");
    for problem in error.problems() {
        assert!(error.to_string().contains(problem), "{problem:?} is not in {error}");
    }
}
