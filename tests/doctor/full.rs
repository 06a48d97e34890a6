//! A full server, with no slot for the doctor itself.

use crate::run::{Doctor, Server};
use crate::support::{Resp, TestServer, Transport, VendorScript, VendorServer};

fn server() -> TestServer {
    crate::server().maxclients(6).start().unwrap()
}

#[track_caller]
fn says_how_to_get_in(seen: &Server<'_>) {
    let advice = seen.advice();
    let ways = ["--wait", "CONFIG SET maxclients", "CLIENT KILL"];
    assert!(ways.iter().any(|way| advice.contains(way)), "a way in: {advice}");
    let nothing = ["holders", "capacity", "snapshot"];
    assert!(nothing.iter().all(|part| seen.json[part].is_null()), "{}", seen.report());
}

#[test]
fn over_tcp_in_the_servers_words() {
    let server = server();
    let _occupants = server.fill();
    let report = Doctor::of(&[&server.url()]).report_of(&[&server]);
    let seen = report.is(3, "full");
    assert!(seen.says("full").contains("max number of clients reached"), "{report}");
    seen.level("failed", &["capacity.saturation"]).level("ok", &["reachability.connect"]);
    assert_eq!(seen.json["reachability"]["outcome"], "max_clients");
    says_how_to_get_in(&seen);
}

#[test]
fn over_a_unix_socket() {
    let server = server();
    let _occupants = server.fill();
    let report = Doctor::of(&[&server.unix_url()]).report_of(&[&server]);
    let seen = report.is(3, "full");
    assert!(seen.says("full").contains("max number of clients reached"), "{report}");
    says_how_to_get_in(&seen);
}

#[test]
fn in_resp3() {
    let server = server();
    let _occupants = server.fill();
    let url = server.url_with(Transport::Tcp, Resp::Resp3, crate::support::Auth::None, 0);
    Doctor::of(&[&url]).report_of(&[&server]).is(3, "full");
}

/// A full server closes before the handshake: nobody says why.
#[test]
fn over_tls_it_is_said_to_be_a_guess() {
    if crate::support::lacks_tls() {
        return;
    }
    let server = crate::server().maxclients(6).tls(true).start().unwrap();
    let _occupants = server.fill();
    let ca = crate::tls::ca_file(&server);
    let report = Doctor::of(&[&server.tls_url(), "--cacert", ca.path().to_str().unwrap()]);
    let report = report.report_of(&[&server]);
    let seen = report.is(3, "full");
    assert_eq!(seen.json["reachability"]["outcome"], "suspected_max_clients");
    let words = seen.says("full").to_lowercase();
    let hedges = ["probably", "likely", "suspect", "seems", "may be", "looks like"];
    assert!(hedges.iter().any(|hedge| words.contains(hedge)), "nobody said so: {words}");
    says_how_to_get_in(&seen);
}

#[test]
fn in_cluster_mode() {
    let server = crate::server().maxclients(6).cluster(true).start().unwrap();
    let _occupants = server.fill();
    let report = Doctor::of(&[&server.url()]).report_of(&[&server]);
    let seen = report.is(3, "full");
    assert!(seen.says("full").contains("clients + cluster connections"), "{report}");
}

#[test]
fn with_a_password_that_is_never_asked_for() {
    let server = crate::server().maxclients(6).password(crate::run::SECRET).start().unwrap();
    let _occupants = server.fill();
    let report = Doctor::of(&[&server.url()]).env("REDISCLI_AUTH", "wrong").report_of(&[&server]);
    report.is(3, "full");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_managed_service_over_its_plan() {
    let server = VendorServer::start(VendorScript::Upstash).await.unwrap();
    let report = Doctor::of(&[&server.url()]).report();
    let seen = report.is(3, "full");
    assert!(seen.says("full").contains("max concurrent connections exceeded"), "{report}");
    assert!(seen.advice().contains("plan"), "what helps, there: {report}");
    assert_eq!(server.accepted(), 1);
}
