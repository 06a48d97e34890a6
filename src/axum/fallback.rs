//! The mark of a response that was made without Redis.

use axum::response::{IntoResponse, Response};

/// A response that the handler made without Redis: a stale copy, a default, a shorter page. It goes
/// out as it is; [`RedisLayer`](super::RedisLayer) counts it as `fallback`, so that "we are degraded"
/// shows although no client noticed. See the [module](super) for an example.
#[derive(Clone, Copy, Debug)]
#[must_use = "return it from the handler"]
pub struct Fallback<R>(pub R);

/// In the extensions of such a response.
#[derive(Clone, Copy, Debug)]
pub(super) struct IsFallback;

impl<R: IntoResponse> IntoResponse for Fallback<R> {
    fn into_response(self) -> Response {
        let mut response = self.0.into_response();
        response.extensions_mut().insert(IsFallback);
        response
    }
}
