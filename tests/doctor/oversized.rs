//! Pools that hold far more than they use.

use std::thread;
use std::time::Duration;

use crate::run::Doctor;
use crate::support::{Crowd, TestServer};
use crate::until_idle;

const SOURCES: u8 = 24;
const POOL: usize = 8;

/// A pool of eight, of which one is used.
fn pool(server: &TestServer, host: u8) -> [Crowd; 2] {
    let pool = |count| Crowd::from(server, host).named("api").open(count);
    [pool(POOL - 1), pool(1).busy()]
}

fn roomy() -> TestServer {
    crate::server().maxclients(204).start().unwrap()
}

fn sources(pools: &[[Crowd; 2]]) -> Vec<String> {
    pools.iter().map(|[idle, _]| idle.source()).collect()
}

#[test]
fn equal_pools_that_are_mostly_idle() {
    let server = roomy();
    let pools: Vec<_> = (0..SOURCES).map(|number| pool(&server, 10 + number)).collect();
    wait(&server, &pools);

    let report = Doctor::of(&[&server.url(), "--idle-after", "1s"]).report_of(&[&server]);
    let seen = report.is(2, "oversized_pools");
    seen.level("failed", &["capacity.saturation"]);
    seen.level("ok", &["holders.sources"]);
    // Of those at work some may have asked in the second before.
    let idle = seen.number("/holders/idle");
    assert!((168..=193).contains(&idle), "{report}");
    seen.shows("holders.idle", idle);
    assert_eq!(seen.number("/holders/clients"), 193);
    assert_eq!(seen.number("/holders/sources"), 25, "24 and the admin");
    assert!(!seen.verdicts().contains(&"leak"), "{report}");
}

#[test]
fn pools_of_a_rolling_deploy_are_no_leak() {
    let server = roomy();
    let pools: Vec<_> = (0..SOURCES)
        .map(|number| {
            thread::sleep(Duration::from_millis(100));
            pool(&server, 10 + number)
        })
        .collect();
    wait(&server, &pools);

    let report = Doctor::of(&[&server.url(), "--idle-after", "1s"]).report_of(&[&server]);
    let seen = report.is(2, "oversized_pools");
    assert!(!seen.verdicts().contains(&"leak"), "{report}");
}

/// Returns when the server says that so many of each pool have been idle for a second.
fn wait(server: &TestServer, pools: &[[Crowd; 2]]) {
    crate::until_idle_in_each(server, &sources(pools), 1, POOL - 1);
}

#[test]
fn one_pool_of_one_service_holds_nearly_everything() {
    let server = crate::server().maxclients(60).start().unwrap();
    let crowd = Crowd::from(&server, 9).named("reports").open(54);
    until_idle(&server, &[crowd.source()], 1);

    let report = Doctor::of(&[&server.url(), "--idle-after", "1s"]).report_of(&[&server]);
    let seen = report.is(2, "oversized_pools");
    seen.level("failed", &["capacity.saturation", "holders.sources"]);
    assert!(seen.says("oversized_pools").contains("reports"), "{report}");
}
