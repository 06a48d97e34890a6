//! A guard before an HTTP client: the calls in flight to one upstream are bounded, and while it is down nobody waits
//! for it.
//!
//! ```sh
//! cargo run --example http_client --features axum     # starts its own upstream on loopback, and stops it
//! ```
//!
//! The client is hyper's, and any tower service would do: its error is none that a guard knows. [`UpstreamClass`]
//! reads responses with [`ByStatus`], and errors by their causes with [`ByAnyError`].

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::{Request, Response};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::TokioExecutor;
use redis_guard::tower::{ByAnyError, ByStatus, Classify, GuardLayer};
use redis_guard::{Class, Guard};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    timeout(Duration::from_secs(30), run()).await?
}

async fn run() -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let upstream = serve(listener);

    let guard = Guard::builder().name("prices").server(address.to_string()).build()?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let mut prices = ServiceBuilder::new()
        .layer(GuardLayer::new(&guard, "quote").classify(UpstreamClass))
        .service(client);
    let mut quote = async || -> Result<Duration, BoxError> {
        let request = Request::get(format!("http://{address}/quote")).body(Body::empty())?;
        let started = Instant::now();
        let answer = prices.ready().await?.call(request).await;
        let took = started.elapsed();
        match &answer {
            Ok(response) => println!("  {took:>9.1?}  {}", response.status()),
            Err(error) => println!("  {took:>9.1?}  {error}"),
        }
        let wait = answer.err().and_then(|error| error.retry_after());
        Ok(wait.unwrap_or(Duration::from_millis(20)))
    };

    println!("the upstream is there");
    quote().await?;

    upstream.abort();
    let _ = upstream.await;
    println!("\nit is gone: the first calls hear so from the socket, the others from the guard");
    for _ in 0..8 {
        quote().await?;
    }

    let upstream = serve(TcpListener::bind(address).await?);
    println!("\nit is back: whoever waits as long as the guard asks finds it");
    while guard.status().breaker.last_failure.is_some() {
        let wait = quote().await?;
        sleep(wait).await;
    }
    upstream.abort();
    Ok(())
}

fn serve(listener: TcpListener) -> tokio::task::JoinHandle<()> {
    let app = Router::new().route("/quote", get(|| async { "42" }));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            eprintln!("the upstream: {error}");
        }
    })
}

/// What a response says by its status, and an error by its causes.
#[derive(Clone)]
struct UpstreamClass;

impl<B> Classify<Result<Response<B>, ClientError>> for UpstreamClass {
    fn classify(&self, result: &Result<Response<B>, ClientError>) -> Class {
        match result {
            Ok(_) => ByStatus.classify(result),
            Err(_) => ByAnyError.classify(result),
        }
    }
}
