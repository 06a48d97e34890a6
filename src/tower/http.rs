//! Classification of HTTP responses.

use http::{Response, StatusCode};

use super::classify::Classify;
use crate::{Class, Outcome};

/// Goes by the status of an HTTP response, for a guard before a service that speaks HTTP.
///
/// 502, 503 and 504 are failures of what is behind it, and so is an error of the service itself; any
/// other status means that it answered. A refusal of this crate's own, as its axum layer answers
/// one, says nothing about the server.
#[derive(Clone, Copy, Debug, Default)]
pub struct ByStatus;

impl<B, E> Classify<Result<Response<B>, E>> for ByStatus {
    fn classify(&self, result: &Result<Response<B>, E>) -> Class {
        let Ok(response) = result else {
            let message = "the service failed without a response".to_owned();
            return Class::Failed { outcome: Outcome::Other, message };
        };
        if response.extensions().get::<OwnRefusal>().is_some() {
            return Class::Unknown;
        }
        let outcome = match response.status() {
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => Outcome::Unreachable,
            StatusCode::GATEWAY_TIMEOUT => Outcome::Timeout,
            _ => return Class::Worked,
        };
        Class::Failed { outcome, message: format!("HTTP {}", response.status()) }
    }
}

/// In the extensions of a response that refuses for the guard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnRefusal;
