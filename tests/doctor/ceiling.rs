//! The connections are used, and there are too few of them.

use crate::run::Doctor;
use crate::support::{Crowd, TestServer};

#[test]
fn busy_connections_on_a_server_that_is_nearly_full() {
    let server = crate::server().maxclients(24).start().unwrap();
    let _busy = [2, 3, 4, 5, 6, 7, 8].map(|host| Crowd::from(&server, host).open(3).busy());

    let report = Doctor::of(&[&server.url(), "--idle-after", "30s"]).report_of(&[&server]);
    let seen = report.is(2, "ceiling_too_low");
    seen.level("failed", &["capacity.saturation"]).shows("capacity.saturation", 23);
    seen.shows("capacity.saturation", 24).shows("capacity.headroom", 1);
    assert_eq!((seen.number("/capacity/used"), seen.number("/capacity/maxclients")), (23, 24));
    assert_eq!(seen.number("/capacity/free"), 1);
    seen.level("ok", &["holders.idle", "holders.sources"]);
    let fix = seen.check("capacity.saturation").fix.unwrap();
    assert!(fix.contains("CONFIG SET maxclients"), "{fix}");
    assert!(fix.contains(&server.port().to_string()), "for this server: {fix}");
    assert_eq!(server.admin().maxclients(), 24, "printed, not run");
}

/// A process that may open 1,024 files.
fn limited() -> TestServer {
    let server = crate::server().open_files(1_024).start().unwrap();
    assert_eq!(server.admin().maxclients(), 992, "the server takes 32 for itself");
    server
}

#[test]
fn a_ceiling_that_the_shells_ulimit_lowered() {
    let server = limited();
    let report = Doctor::of(&[&server.url()]).report_of(&[&server]);
    let seen = report.is(2, "ceiling_too_low");
    assert_eq!(seen.of_level("failed"), ["capacity.ulimit"]);
    seen.shows("capacity.ulimit", 992).shows("capacity.ulimit", 1_024);
    let fix = seen.check("capacity.ulimit").fix.unwrap();
    assert!(fix.contains("ulimit -n") || fix.contains("LimitNOFILE"), "{fix}");
}

#[test]
fn a_full_server_whose_ulimit_is_the_ceiling() {
    let server = limited();
    let _busy = [2, 3, 4, 5, 6].map(|host| Crowd::from(&server, host).open(195).busy());

    let report = Doctor::of(&[&server.url(), "--idle-after", "30s"]).report_of(&[&server]);
    let seen = report.is(2, "ceiling_too_low");
    let words = seen.says("ceiling_too_low");
    assert!(words.contains("ulimit") || words.contains("LimitNOFILE"), "why: {words}");
}

#[test]
fn a_ceiling_that_was_chosen_is_not_the_ulimits() {
    let server = crate::server().maxclients(992).start().unwrap();
    let report = Doctor::of(&[&server.url(), "--strict"]).report_of(&[&server]);
    report.is(0, "nothing_wrong").level("ok", &["capacity.ulimit"]);
}

#[test]
fn a_ceiling_lowered_under_those_who_are_connected() {
    let server = crate::server().maxclients(60).start().unwrap();
    let _busy = [2, 3, 4, 5].map(|host| Crowd::from(&server, host).open(6).busy());
    let doctor = Doctor::of(&[&server.url(), "--sample", "6s"]).spawn();
    crate::until_it_waits(&server);
    server.admin().set_maxclients(20);

    let report = doctor.end().report();
    let seen = report.is(2, "ceiling_too_low");
    assert_eq!((seen.number("/capacity/used"), seen.number("/capacity/free")), (26, 0));
    assert_eq!(seen.number("/capacity/maxclients"), 20);
}

#[test]
fn one_source_at_work_over_its_share_is_named_and_no_leak() {
    let server = crate::server().maxclients(60).start().unwrap();
    let _small = [2, 3, 4, 5].map(|host| Crowd::from(&server, host).named("api").open(3).busy());
    let _large = Crowd::from(&server, 9).named("reports").open(42).busy();

    let report = Doctor::of(&[&server.url(), "--idle-after", "30s"]).report_of(&[&server]);
    let seen = report.is(2, "ceiling_too_low");
    seen.level("warning", &["holders.sources"]).shows("holders.sources", 42);
    assert!(seen.check("holders.sources").evidence.contains("reports"), "{report}");
    assert!(!seen.verdicts().contains(&"leak"), "{report}");
}
