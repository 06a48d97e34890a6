//! Certificates, and ports that are not what the URL says.

use std::io::Write as _;

use tempfile::NamedTempFile;

use crate::run::Doctor;
use crate::support::TestServer;

/// The authority's certificate, in a file.
pub(crate) fn ca_file(server: &TestServer) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(server.ca_pem().as_bytes()).unwrap();
    file
}

fn server() -> TestServer {
    crate::server().tls(true).maxclients(50).start().unwrap()
}

#[test]
fn an_unknown_authority() {
    if crate::support::lacks_tls() {
        return;
    }
    let server = server();
    let report = Doctor::of(&[&server.tls_url()]).report_of(&[&server]);
    let seen = report.is(3, "tls_failed");
    seen.level("failed", &["reachability.tls"]).level("ok", &["reachability.connect"]);
    assert!(seen.advice().contains("--cacert"), "what to do: {report}");
    let words = seen.says("tls_failed").to_lowercase();
    assert!(words.contains("certificate") || words.contains("issuer"), "{words}");
}

#[test]
fn the_authority_given() {
    if crate::support::lacks_tls() {
        return;
    }
    let server = server();
    let ca = ca_file(&server);
    let ca = ca.path().to_str().unwrap();
    let report = Doctor::of(&[&server.tls_url(), "--cacert", ca, "--strict"]).report_of(&[&server]);
    let seen = report.is(0, "nothing_wrong");
    seen.level("ok", &["reachability.tls"]);
    assert!(
        seen.json["reachability"]["tls_seconds"].as_f64().is_some_and(|it| it > 0.0),
        "{report}"
    );
}

#[test]
fn a_certificate_for_another_name() {
    if crate::support::lacks_tls() {
        return;
    }
    let server = server();
    let ca = ca_file(&server);
    // The certificate is for localhost and 127.0.0.1.
    let url = format!("rediss://127.0.0.2:{}", server.tls_port());
    let bound = server.admin().command(&["CONFIG", "SET", "bind", "127.0.0.1 127.0.0.2"]);
    assert!(!bound.unwrap().is_error());
    let report = Doctor::of(&[&url, "--cacert", ca.path().to_str().unwrap()]).report();
    let seen = report.is(3, "tls_failed");
    let words = seen.says("tls_failed").to_lowercase();
    assert!(words.contains("name") || words.contains("valid for"), "{words}");
}

#[test]
fn a_plain_url_to_a_tls_port() {
    if crate::support::lacks_tls() {
        return;
    }
    let server = server();
    let url = format!("redis://127.0.0.1:{}", server.tls_port());
    let report = Doctor::of(&[&url]).report_of(&[&server]);
    assert_eq!(report.code, 3, "{report}");
    let seen = report.server(0);
    assert!(seen.advice().contains("rediss://"), "what to try: {report}");
    let rejected = server.admin().info_u64("rejected_connections");
    assert_eq!(rejected, 0, "the server is not full, whatever it looks like");
}

#[test]
fn a_tls_url_to_a_plain_port() {
    if crate::support::lacks_tls() {
        return;
    }
    let server = server();
    let url = format!("rediss://127.0.0.1:{}", server.port());
    let report = Doctor::of(&[&url, "--timeout", "500ms"]).report_of(&[&server]);
    assert_eq!(report.code, 3, "{report}");
    let seen = report.server(0);
    assert_ne!(seen.verdict(), "full", "{report}");
    assert!(seen.advice().contains("redis://"), "what to try: {report}");
}
