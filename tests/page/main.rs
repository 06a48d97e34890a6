//! The status page, in a headless Chromium.
//!
//! Where there is no Chromium the tests are skipped, and say so; with `REQUIRE_CHROMIUM` or `CI` set they
//! fail. `SCREENSHOTS=DIR` has them leave pictures there.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and so do its helpers")]

#[path = "../http/client.rs"]
mod client;
#[path = "../example/mod.rs"]
mod example;
#[path = "../support/mod.rs"]
mod support;
#[path = "../waiting/mod.rs"]
mod waiting;

mod browser;
mod cluster;
mod gone;
mod kept;
mod looks;
mod numbers;
mod overrides;
mod sentinel;
mod server_errors;
mod untrusted;

use std::net::SocketAddr;

use axum::Router;
use tokio::net::TcpListener;

/// Serves it for as long as the test's runtime lives.
async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, app).into_future());
    address
}
