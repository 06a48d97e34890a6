//! Refusals as HTTP: 503 with `Retry-After` (RFC 9110) and problem details (RFC 9457).

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use redis::{ErrorKind, RedisError, ServerError};
use serde::Serialize;

use crate::dial::of_error_line;
use crate::tower::OwnRefusal;
use crate::vocabulary::redis_error::is_refusal;
use crate::{Error, Outcome, Rejection};

/// What the server says when it cannot serve anybody just now, beside "max number of clients reached":
/// it loads, runs somebody's script, fails over, or is out of memory, disk or replicas.
const PASSING: [&str; 9] = [
    "LOADING",
    "BUSY",
    "TRYAGAIN",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "READONLY",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
];

/// When to come back where nothing says when it will be better.
const SOON: Duration = Duration::from_secs(1);

/// Problem details. Without an address, a name or a word of the server: they are for the log, and
/// the client may be anybody.
#[derive(Clone, Debug, Serialize)]
struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'static str,
    #[serde(flatten)]
    refusal: Option<Refusal>,
}

/// Why a request was refused and when to come back. In the extensions of its response, for
/// `IntoResponse` does not know the settings of the layer that the response goes through.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Refusal {
    #[serde(skip)]
    detail: &'static str,
    reason: &'static str,
    retry_after_seconds: u64,
}

impl Refusal {
    pub(super) fn of(rejection: &Rejection) -> Self {
        let detail = match rejection {
            Rejection::BreakerOpen { .. } | Rejection::ConnectFailed { .. } => {
                "a service that this one depends on cannot be reached at the moment"
            }
            Rejection::BudgetExhausted { .. } | Rejection::InFlightLimit { .. } => {
                "as many requests of this kind as may run at a time are running"
            }
            Rejection::QueueFull { .. }
            | Rejection::AcquireTimeout { .. }
            | Rejection::RetryBudgetExhausted { .. } => {
                "more requests are waiting than can be served in time"
            }
            Rejection::Closed => "this instance is shutting down",
        };
        let retry_after = rejection.retry_after().unwrap_or(SOON);
        Self { detail, reason: rejection.reason(), retry_after_seconds: spread(retry_after) }
    }

    /// For an error of Redis that will pass, or of a refusal that was made one.
    fn of_passing() -> Self {
        Self {
            detail: "a service that this one depends on cannot answer at the moment",
            reason: "redis_unavailable",
            retry_after_seconds: spread(SOON),
        }
    }

    pub(super) fn into_response(self, status: StatusCode) -> Response {
        let problem = Problem {
            r#type: "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
            title: "Temporary Reduced Capacity",
            status: status.as_u16(),
            detail: self.detail,
            refusal: Some(self),
        };
        let mut response = problem.into_response(status);
        response.headers_mut().insert(RETRY_AFTER, self.retry_after_seconds.into());
        response.extensions_mut().insert(self);
        response.extensions_mut().insert(OwnRefusal);
        response
    }

    /// Gives a response that was made of this refusal another status.
    pub(super) fn set_status(self, status: StatusCode, response: &mut Response) {
        if response.status() != status {
            *response.status_mut() = status;
            *response.body_mut() = self.into_response(status).into_body();
            response.headers_mut().remove(CONTENT_LENGTH);
            response.headers_mut().remove(CONTENT_ENCODING);
        }
    }
}

/// 403, for a request that some other site's page made a browser send.
pub(super) fn cross_origin() -> Response {
    let status = StatusCode::FORBIDDEN;
    let problem = Problem {
        r#type: "about:blank",
        title: "Forbidden",
        status: status.as_u16(),
        detail: "this request was made by a page of another origin",
        refusal: None,
    };
    problem.into_response(status)
}

impl Problem {
    fn into_response(self, status: StatusCode) -> Response {
        let json = HeaderValue::from_static("application/problem+json");
        (status, [(CONTENT_TYPE, json)], Json(self)).into_response()
    }
}

/// Whole seconds, at least one; up to twice as many as asked for, at random, so that clients who
/// were refused together do not come back together.
fn spread(retry_after: Duration) -> u64 {
    let part = u64::from(retry_after.subsec_nanos() > 0);
    let seconds = retry_after.as_secs().saturating_add(part).max(1);
    seconds.saturating_add(fastrand::u64(0..=seconds))
}

/// 503 with `Retry-After` and problem details: what to tell a client that cannot be served for want
/// of Redis. [`RedisLayer::status`](super::RedisLayer::status) changes the status.
impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        Refusal::of(&self).into_response(StatusCode::SERVICE_UNAVAILABLE)
    }
}

/// A [`Rejection`], and an error of Redis that will pass (I/O, timeouts, LOADING, BUSY, OOM,
/// failover, …), are 503 with `Retry-After`. What only a change of code or configuration mends
/// (WRONGTYPE, NOPERM, a reply that does not parse, …) is 500, and goes to the log: the client is not
/// told.
impl IntoResponse for Error {
    fn into_response(self) -> Response {
        match self {
            Self::Rejected(rejection) => rejection.into_response(),
            Self::Inner(error) if is_passing(&error) => {
                tracing::debug!(%error, "redis could not serve a request");
                Refusal::of_passing().into_response(StatusCode::SERVICE_UNAVAILABLE)
            }
            Self::Inner(error) => {
                tracing::error!(%error, "redis did not accept what a request asked of it");
                let problem = Problem {
                    r#type: "about:blank",
                    title: "Internal Server Error",
                    status: StatusCode::INTERNAL_SERVER_ERROR.as_u16(),
                    detail: "a mistake in this service, which its log describes",
                    refusal: None,
                };
                problem.into_response(StatusCode::INTERNAL_SERVER_ERROR)
            }
        }
    }
}

/// Whether the error says that Redis cannot serve just now, not that the request asks for something
/// wrong.
fn is_passing(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io => true,
        _ if is_refusal(error) => true,
        // Of a pipeline, one such reply is enough: the others may fail in consequence.
        _ => error
            .clone()
            .into_server_errors()
            .is_some_and(|errors| errors.iter().any(|(_, error)| is_passing_reply(error))),
    }
}

fn is_passing_reply(error: &ServerError) -> bool {
    let line = format!("{} {}", error.code(), error.details().unwrap_or_default());
    PASSING.contains(&error.code())
        || matches!(of_error_line(&line), Some(Outcome::MaxClients | Outcome::Unreachable))
}
