//! The reply to INFO, and what changes from one to the next.

use std::time::Duration;

use tokio::time::Instant;

use crate::server::{ServerObserver, ServerSnapshot};

/// Replies one after the other, with a zero byte between them.
pub fn run(data: &[u8]) {
    let (mut observer, start) = (ServerObserver::default(), Instant::now());
    for (second, info) in (0_u64..).zip(data.split(|byte| *byte == 0).take(8)) {
        let snapshot = ServerSnapshot::parse(info);
        if let (Some(free), Some(ceiling)) = (snapshot.free(), snapshot.ceiling()) {
            assert!(free <= ceiling, "{free} of {ceiling} are free");
        }
        let observation = observer.observe(snapshot, start + Duration::from_secs(second));
        if let Some(saturation) = observation.saturation() {
            assert!(saturation.is_finite() && saturation >= 0.0, "a saturation of {saturation}");
        }
        if let (Some(new), Some(all)) =
            (observation.new_rejections, observation.snapshot.rejected_connections)
        {
            assert!(new <= all, "{new} of {all} refusals are new");
        }
    }
}
