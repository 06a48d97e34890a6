//! The layer: a guard, how to name a request's endpoint, and how to read a result.

use std::fmt;

use tower::Layer;

use super::classify::{ByError, ErrorBy};
use super::queued::QueuedGuardLayer;
use super::service::GuardService;
use crate::ledger::AccountId;
use crate::{Class, Endpoint, Guard};

/// Puts a [`Guard`] before a service.
///
/// A call is admitted when it is made, or refused at once with
/// [`Error::Rejected`](crate::Error::Rejected); errors of the inner service stay themselves, as
/// [`Error::Inner`](crate::Error::Inner). With [`queued`](Self::queued) a caller waits for its turn.
///
/// The guard hears of the server by the errors of the service: one that is no
/// [`ClassifyError`](super::ClassifyError) needs [`classify_errors`](Self::classify_errors), or
/// [`classify(ByAnyError)`](super::ByAnyError). Without it the compiler says so, or merely that `GuardService` is no
/// `Service`.
///
/// ```
/// use redis_guard::{Guard, tower::GuardLayer};
/// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let guard = Guard::builder().max_in_flight(64).build()?;
/// let mut service = ServiceBuilder::new()
///     .layer(GuardLayer::new(&guard, "search"))
///     .service(service_fn(|key: String| async move { Ok::<_, redis::RedisError>(key.len()) }));
/// assert_eq!(service.ready().await?.call("hits".to_owned()).await?, 4);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct GuardLayer<N = Fixed, C = ByError> {
    pub(super) guard: Guard,
    pub(super) endpoint: N,
    pub(super) classify: C,
}

impl GuardLayer {
    /// All requests are of one endpoint.
    #[must_use]
    pub fn new(guard: &Guard, endpoint: impl Into<Endpoint>) -> Self {
        let account = guard.account(&endpoint.into());
        Self { guard: guard.clone(), endpoint: Fixed(account), classify: ByError }
    }
}

impl<F> GuardLayer<ByRequest<F>> {
    /// The endpoint is read off the request by `endpoint`, a closure that returns an [`Endpoint`] or
    /// what becomes one.
    #[must_use]
    pub fn by_request<Req, E>(guard: &Guard, endpoint: F) -> Self
    where
        F: Fn(&Req) -> E,
        E: Into<Endpoint>,
    {
        Self { guard: guard.clone(), endpoint: ByRequest(endpoint), classify: ByError }
    }
}

impl<N, C> GuardLayer<N, C> {
    /// How to read what a result says about the server. Default [`ByError`];
    /// [`ByAnyError`](super::ByAnyError) goes by the causes of whatever error a service has.
    #[must_use]
    pub fn classify<D>(self, classify: D) -> GuardLayer<N, D> {
        let Self { guard, endpoint, classify: _ } = self;
        GuardLayer { guard, endpoint, classify }
    }

    /// How to read what an error of the service says about the server, by a closure; any response means that the
    /// server answered.
    ///
    /// ```
    /// use redis_guard::{Class, Guard, Outcome, tower::GuardLayer};
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    ///
    /// enum MailError {
    ///     Busy,
    ///     NoSuchUser,
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let guard = Guard::builder().build()?;
    /// let layer = GuardLayer::new(&guard, "mail").classify_errors(|error: &MailError| match error {
    ///     MailError::Busy => Class::Failed { outcome: Outcome::MaxClients, message: "421".into() },
    ///     MailError::NoSuchUser => Class::Worked,
    /// });
    /// let mail = ServiceBuilder::new()
    ///     .layer(layer)
    ///     .service(service_fn(|_to: &str| async { Err::<(), _>(MailError::Busy) }));
    /// assert!(mail.oneshot("alice").await.is_err());
    /// let heard = guard.status().breaker.last_failure.expect("the server was busy");
    /// assert_eq!(heard.message, "421");
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn classify_errors<E, F: Fn(&E) -> Class>(self, class: F) -> GuardLayer<N, ErrorBy<F>> {
        self.classify(ErrorBy(class))
    }

    /// Lets a caller wait in the guard's bounded queue, at most its acquire timeout, where this layer
    /// would refuse it for want of room. For inner services that are `Clone`.
    #[must_use]
    pub fn queued(self) -> QueuedGuardLayer<N, C> {
        QueuedGuardLayer(self)
    }
}

impl<S, N: Clone, C: Clone> Layer<S> for GuardLayer<N, C> {
    type Service = GuardService<S, N, C>;

    fn layer(&self, inner: S) -> Self::Service {
        GuardService { inner, layer: self.clone() }
    }
}

impl<N, C> fmt::Debug for GuardLayer<N, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuardLayer").field("guard", &self.guard).finish_non_exhaustive()
    }
}

/// How a [`GuardLayer`] names a request's endpoint.
pub trait EndpointOf<Req>: sealed::AccountOf<Req> {}

impl<Req, N: sealed::AccountOf<Req>> EndpointOf<Req> for N {}

/// All requests are of one endpoint; see [`GuardLayer::new`].
#[derive(Clone, Copy, Debug)]
pub struct Fixed(AccountId);

/// The endpoint is read off the request; see [`GuardLayer::by_request`].
#[derive(Clone, Copy)]
pub struct ByRequest<F>(F);

impl<F> fmt::Debug for ByRequest<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByRequest")
    }
}

pub(super) mod sealed {
    use super::{AccountId, ByRequest, Endpoint, Fixed, Guard};

    pub trait AccountOf<Req> {
        #[doc(hidden)]
        fn account(&self, guard: &Guard, request: &Req) -> AccountId;
    }

    impl<Req> AccountOf<Req> for Fixed {
        fn account(&self, _: &Guard, _: &Req) -> AccountId {
            self.0
        }
    }

    impl<Req, F, E> AccountOf<Req> for ByRequest<F>
    where
        F: Fn(&Req) -> E,
        E: Into<Endpoint>,
    {
        fn account(&self, guard: &Guard, request: &Req) -> AccountId {
            guard.account(&self.0(request).into())
        }
    }
}
