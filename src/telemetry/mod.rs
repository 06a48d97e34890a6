//! What a pool shows of itself: events, status, metrics.

pub(crate) mod event;
pub(crate) mod metrics;
pub(crate) mod status;
