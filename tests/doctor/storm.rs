//! Clients that a full server refuses, and that dial again at once.

use crate::run::Doctor;
use crate::support::{Crowd, Storm};

#[test]
fn a_storm_that_leaves_the_doctor_a_slot_now_and_then() {
    let server = crate::server().maxclients(20).start().unwrap();
    // All but the admin's slot and the one that the storm fights for.
    let _served = [2, 3, 4].map(|host| Crowd::from(&server, host).named("api").open(6).busy());
    let _storm = Storm::from(&server, 9, 12).rages(50);

    let report = Doctor::of(&[&server.url(), "--wait", "15s"]).report_of(&[&server]);
    let seen = report.is(2, "retry_storm");
    seen.level("failed", &["capacity.rejections", "capacity.saturation"]);
    let refused = seen.number("/capacity/new_rejections");
    assert!(refused > 20, "a dozen clients, a fifth of a second: {report}");
    seen.shows("capacity.rejections", refused);
    assert!(server.admin().info_u64("rejected_connections") >= refused);
    assert!(seen.verdicts().contains(&"ceiling_too_low"), "who is let in has work: {report}");
    assert_eq!(seen.json["capacity"]["stands_still"], false, "{report}");
    assert!(seen.json["capacity"]["commands_per_second"].as_f64().unwrap() > 50.0, "{report}");
    assert!(
        seen.check("capacity.rejections").evidence.contains(" commands a second on "),
        "{report}"
    );
}

#[test]
fn the_doctor_waits_for_a_slot_that_comes_free() {
    let server = crate::server().maxclients(8).start().unwrap();
    let mut occupants = server.fill();
    let refused = server.admin().info_u64("rejected_connections");

    let doctor = Doctor::of(&[&server.url(), "--wait", "20s"]).spawn();
    let tried = || (server.admin().info_u64("rejected_connections") > refused + 1).then_some(());
    let tried = crate::support::server::poll(crate::IDLE_LIMIT, tried);
    tried.expect("the doctor should try more than once");
    occupants.release(1);

    let report = doctor.end().report();
    let seen = report.server(0);
    assert_eq!(report.code, 2, "{report}");
    assert_eq!(seen.json["reachability"]["connected"], true);
    let dials = seen.number("/reachability/dials");
    let refusals = server.admin().info_u64("rejected_connections") - refused;
    assert_eq!(dials, refusals + 1, "each dial but the last was refused: {report}");
    assert!(dials < 200, "the doctor itself is no storm: {dials}");
    seen.level("failed", &["capacity.saturation"]);
}

#[test]
fn without_a_time_to_wait_the_doctor_dials_once() {
    let server = crate::server().maxclients(8).start().unwrap();
    let _occupants = server.fill();
    let refused = server.admin().info_u64("rejected_connections");
    let report = Doctor::of(&[&server.url()]).report_of(&[&server]);
    report.is(3, "full");
    assert_eq!(server.admin().info_u64("rejected_connections"), refused + 1);
}

#[test]
fn short_connections_are_churn_and_no_storm() {
    let server = crate::server().maxclients(200).start().unwrap();
    let _storm = Storm::from(&server, 9, 8);

    let report = Doctor::of(&[&server.url(), "--sample", "1s"]).report_of(&[&server]);
    let seen = report.server(0);
    assert_eq!(report.code, 0, "{report}");
    seen.level("warning", &["capacity.churn"]);
    seen.level("ok", &["capacity.rejections", "capacity.saturation"]);
    assert!(!seen.verdicts().contains(&"retry_storm"), "nobody is refused: {report}");
    let rate = seen.json["capacity"]["connections_per_second"].as_f64().unwrap();
    assert!(rate > 100.0, "eight clients, 5 ms a connection: {rate}");
}

#[test]
fn rejections_of_the_past_are_no_storm() {
    let server = crate::server().maxclients(8).start().unwrap();
    server.fill().free();
    assert_eq!(server.admin().info_u64("rejected_connections"), 1);

    let report = Doctor::of(&[&server.url()]).report_of(&[&server]);
    let seen = report.is(0, "nothing_wrong");
    assert_eq!(seen.number("/capacity/new_rejections"), 0);
    assert_eq!(seen.number("/capacity/rejections_total"), 1);
    seen.shows("capacity.rejections", 1);
}

/// What has to be stopped comes first, what has to be mended second.
#[test]
fn a_storm_on_a_server_that_a_leak_has_filled() {
    let server = crate::server().maxclients(40).start().unwrap();
    let _others = [2, 3, 4].map(|host| Crowd::from(&server, host).open(3).busy());
    let leaked = Crowd::from(&server, 9).named("checkout");
    // For longer than half of the time until the doctor is let in.
    for _ in 0..29 {
        leaked.add(1);
        std::thread::sleep(std::time::Duration::from_millis(400));
    }
    crate::until_idle(&server, &[leaked.source()], 1);
    let _storm = Storm::from(&server, 8, 12).rages(50);

    let args = ["--wait", "15s", "--idle-after", "1s"];
    let report = Doctor::of(&[&server.url()]).args(&args).report_of(&[&server]);
    let seen = report.is(2, "retry_storm");
    assert_eq!(seen.verdicts(), ["retry_storm", "leak"], "{report}");
    assert!(seen.says("leak").contains("checkout"), "{report}");
}
