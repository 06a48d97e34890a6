//! Routes for operators and orchestrators.

#[cfg(feature = "doctor")]
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
#[cfg(feature = "doctor")]
use http::header::{ACCEPT, RETRY_AFTER};
use http::{HeaderMap, StatusCode, Uri};
use serde::Serialize;
#[cfg(feature = "doctor")]
use tokio::sync::Mutex;

use super::same_origin::is_foreign;
use super::{problem, status_page};
#[cfg(feature = "doctor")]
use crate::doctor::Doctor;
use crate::telemetry::event::RecentEvent;
use crate::telemetry::status::{BreakerStatus, Status};
use crate::{BreakerHandle, GuardedPool, RecentRate, Rejection};

/// Routes that show a pool, and its readiness: for a **private listener**. They name the server, the
/// endpoints and places in the source, and are not authenticated.
///
/// | route | answer |
/// |---|---|
/// | `GET /status` | [`GuardedPool::status`] as JSON, and the last 100 `events`, each with the time `at` which it happened in seconds since the Unix epoch; callers refused and dials of the last five minutes, second by second (`history`), whether anybody looked or not |
/// | `GET /status`, by a browser | the same as a page that follows it, once a second while it is looked at: light and dark, on a phone too |
/// | `GET /readyz` | 200 and `{"status":"ready"}`; 200 and `degraded`, with `reason` and `detail`, while nobody can be served; 503 and `closed` once the pool is closed, so that a load balancer lets go of an instance that drains |
/// | `GET /doctor` | with [`doctor`](StatusRoutes::doctor) only (feature `doctor`): the server examined over a connection of the pool's, as JSON, or as text for a browser, for `Accept: text/plain` and for `?format=text`; while nothing is live, 503 and the same report of what is known: why, in the server's own words, and what it was like when it was last seen, with its age |
/// | `POST /breaker/open`, `/breaker/closed`, `/breaker/auto` | with [`overrides`](StatusRoutes::overrides) only: forces the breaker, or takes that back; the breaker then. 403 to a browser that sends it for a page of another origin |
///
/// **One address, two forms**: whoever names `text/html` in `Accept`, and does not want JSON as much, gets
/// the page; everybody else, as curl, a script or `fetch`, gets JSON, and so does `/status?format=json`.
/// There is no route of its own that could collide with one of yours, and where `/status` is reachable,
/// nested or behind a proxy, so is all that the page needs. It is one file, loads nothing else, runs
/// under a `Content-Security-Policy` that allows its own script and style only, and has buttons for the
/// breaker with `overrides` only.
///
/// **Readiness does not depend on Redis** unless [`require_redis`](StatusRoutes::require_redis) is
/// asked for. All instances share it: if each reported itself unready because Redis is full, the load
/// balancer would take out all of them at once, those included that could answer from a cache or
/// refuse in a millisecond, and a restart of them would dial a full server again.
///
/// ```
/// use axum::Router;
/// use redis_guard::GuardedPool;
/// use redis_guard::axum::status_routes;
///
/// # fn example(pool: GuardedPool) {
/// let admin: Router = Router::new().merge(status_routes(pool.clone()).overrides());
/// // Where there is more than one pool:
/// let admin: Router = Router::new().nest("/redis", status_routes(pool).into());
/// # let _ = admin; }
/// ```
pub fn status_routes(pool: GuardedPool) -> StatusRoutes {
    StatusRoutes {
        pool,
        require_redis: false,
        overrides: false,
        #[cfg(feature = "doctor")]
        doctor: false,
    }
}

/// What [`status_routes`] is about to make: it converts into a [`Router`].
#[derive(Clone, Debug)]
#[must_use = "merge it into a router"]
pub struct StatusRoutes {
    pool: GuardedPool,
    require_redis: bool,
    overrides: bool,
    #[cfg(feature = "doctor")]
    doctor: bool,
}

impl StatusRoutes {
    /// Makes `GET /readyz` answer 503 while no connection is live. For an instance that is of no use
    /// without Redis and has others to take its place that do not share its fate.
    pub const fn require_redis(mut self) -> Self {
        self.require_redis = true;
        self
    }

    /// Adds `GET /doctor`: [`Doctor::examine_pool`](crate::doctor::Doctor::examine_pool), which holds
    /// a connection of the pool's for two seconds and asks the server for its CLIENT LIST. At a full
    /// server, which lets no tool in, it still tells who holds the slots. One at a time: whoever asks
    /// meanwhile gets its turn. It asks under the endpoint `doctor`:
    /// [`Budget::max(1).reserve(1)`](crate::Budget) keeps a connection for it, where the leak may be in this
    /// very service.
    #[cfg(feature = "doctor")]
    #[cfg_attr(docsrs, doc(cfg(feature = "doctor")))]
    pub const fn doctor(mut self) -> Self {
        self.doctor = true;
        self
    }

    /// Adds the routes that force the breaker, and buttons for them on the page. Whoever reaches them can
    /// stop all dialing.
    pub const fn overrides(mut self) -> Self {
        self.overrides = true;
        self
    }
}

impl<S: Clone + Send + Sync + 'static> From<StatusRoutes> for Router<S> {
    fn from(routes: StatusRoutes) -> Self {
        let StatusRoutes { pool, require_redis, overrides, .. } = routes;
        let readyz =
            move |State(pool): State<GuardedPool>| async move { readyz(&pool, require_redis) };
        let status = async move |State(pool): State<GuardedPool>, headers: HeaderMap, uri: Uri| {
            if status_page::is_wanted(&headers, &uri) {
                return status_page::page(overrides);
            }
            (status_page::HEADERS, status(&pool)).into_response()
        };
        let mut router = Router::new().route("/status", get(status)).route("/readyz", get(readyz));
        #[cfg(feature = "doctor")]
        if routes.doctor {
            let turn = Arc::new(Mutex::new(()));
            let examine =
                async move |State(pool): State<GuardedPool>, headers: HeaderMap, uri: Uri| {
                    let _turn = turn.lock().await;
                    examine(&pool, wants_text(&headers, &uri)).await
                };
            router = router.route("/doctor", get(examine));
        }
        if overrides {
            for (path, change) in [
                ("/breaker/open", BreakerHandle::force_open as fn(&BreakerHandle)),
                ("/breaker/closed", BreakerHandle::force_closed),
                ("/breaker/auto", BreakerHandle::auto),
            ] {
                let force =
                    async move |State(pool): State<GuardedPool>, headers: HeaderMap, uri: Uri| {
                        if is_foreign(&headers, &uri) {
                            return problem::cross_origin();
                        }
                        force(&pool, change).into_response()
                    };
                router = router.route(path, post(force));
            }
        }
        router.with_state(pool)
    }
}

#[derive(Serialize)]
struct StatusAndEvents {
    #[serde(flatten)]
    status: Status,
    events: Vec<RecentEvent>,
    history: History,
}

/// A column for each number, oldest first: five minutes are three hundred rows.
#[derive(Default, Serialize)]
struct History {
    /// How long ago the second ended, and how long it was.
    age_seconds: Vec<f64>,
    seconds: Vec<f64>,
    refused: Vec<u64>,
    dials: Vec<u64>,
}

impl FromIterator<RecentRate> for History {
    fn from_iter<I: IntoIterator<Item = RecentRate>>(rates: I) -> Self {
        // Hundredths are enough for a chart.
        let rounded = |time: Duration| (time.as_secs_f64() * 100.0).round() / 100.0;
        rates.into_iter().fold(Self::default(), |mut history, rate| {
            history.age_seconds.push(rounded(rate.age));
            history.seconds.push(rounded(rate.took));
            history.refused.push(rate.refused);
            history.dials.push(rate.dials);
            history
        })
    }
}

fn status(pool: &GuardedPool) -> Json<StatusAndEvents> {
    let history = pool.recent_rates().into_iter().collect();
    Json(StatusAndEvents { status: pool.status(), events: pool.recent_events(), history })
}

/// A browser, whoever names `text/plain`, and `?format=text`.
#[cfg(feature = "doctor")]
fn wants_text(headers: &HeaderMap, uri: &Uri) -> bool {
    let named = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let plain = named.into_iter().any(|accept| accept.contains("text/plain"));
    let asked = uri.query().is_some_and(|query| query.split('&').any(|it| it == "format=text"));
    plain || asked || status_page::is_wanted(headers, uri)
}

#[cfg(feature = "doctor")]
async fn examine(pool: &GuardedPool, as_text: bool) -> Response {
    let doctor = Doctor::default();
    let (refusal, report) = match doctor.examine_pool(pool).await {
        Ok(report) => (None, report),
        // There is no connection to ask over, and what is known without one is more than that.
        Err(error) => match doctor.without_connection(pool) {
            Some(report) => (Some(error.into_response()), report),
            None => return error.into_response(),
        },
    };
    let mut response = match as_text {
        true => (status_page::HEADERS, report.to_string()).into_response(),
        false => (status_page::HEADERS, Json(report)).into_response(),
    };
    if let Some(refusal) = refusal {
        *response.status_mut() = refusal.status();
        if let Some(wait) = refusal.headers().get(RETRY_AFTER) {
            response.headers_mut().insert(RETRY_AFTER, wait.clone());
        }
    }
    response
}

fn force(pool: &GuardedPool, change: fn(&BreakerHandle)) -> Json<BreakerStatus> {
    change(&pool.breaker());
    Json(pool.status().breaker)
}

#[derive(Serialize)]
struct Readiness {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

fn readyz(pool: &GuardedPool, require_redis: bool) -> Response {
    let (live, refusal) = pool.readiness();
    let (status, reason) = match &refusal {
        Some(Rejection::Closed) => ("closed", None),
        Some(rejection) => ("degraded", Some(rejection.reason())),
        None if require_redis && live == 0 => ("degraded", Some("not_connected")),
        None => ("ready", None),
    };
    let code = match status {
        "ready" => StatusCode::OK,
        "degraded" if !require_redis => StatusCode::OK,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let detail = refusal.map(|rejection| rejection.to_string());
    (code, Json(Readiness { status, reason, detail })).into_response()
}
