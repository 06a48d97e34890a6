//! Lifting a limit that froze when the server refused, once the server has told that it has room.

use tokio::time::Instant;

use crate::Outcome;
use crate::pool::state::State;
use crate::server::Seen;

pub(super) fn thaw(state: &mut State, seen: &Seen, share: Option<usize>, lost: Instant) {
    if !seen.sees_room(lost) {
        return;
    }
    state.gate.room_seen(seen.sent);
    let Some(frozen) = state.ledger.frozen().filter(|frozen| *frozen > 0) else { return };
    // Where both are the same, neither may stand in the way of one more that is tried.
    if share.is_some_and(|share| share < frozen) {
        return;
    }
    state.ledger.thaw();
    // A server that was only suspected may be a proxy that is full and silent: its next dial keeps its
    // time.
    if state.gate.failure().is_some_and(|failure| failure.outcome == Outcome::MaxClients) {
        state.gate.allow_free_dial();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Breaker;
    use crate::ledger::Ledger;
    use crate::policy::Budgets;
    use crate::server::gate::Gate;
    use crate::server::{Server, ServerSnapshot};

    const INFO: &str = "connected_clients:12\r\nmaxclients:120\r\nrejected_connections:3\r\n";

    /// What a server says that has refused somebody before.
    fn seen(now: Instant) -> Seen {
        let server = Server::alone("test", 1);
        for second in 0..2 {
            let now = now + Duration::from_secs(60 * second);
            let question = server.question(now, Duration::from_secs(1)).expect("nobody else asks");
            question.answered(ServerSnapshot::parse(INFO), now);
        }
        let seen = server.seen().expect("an observation");
        assert!(seen.sees_room(now));
        seen
    }

    /// A pool with one connection, and its limit frozen at that.
    fn frozen() -> State {
        let second = Duration::from_secs(1);
        let budgets = Budgets { named: Vec::new(), default: None };
        let gate = Gate::alone(None, Breaker::default(), second, 1);
        let mut state = State::new(Ledger::new(8, 8, &budgets), 8, gate);
        let fresh = state.ledger.dial_started();
        state.ledger.connected(fresh.is_some());
        state.ledger.freeze();
        assert_eq!(state.ledger.frozen(), Some(1));
        state
    }

    /// With a share of what there is the one that is there may be a subscriber's, and nothing asks for more.
    #[test]
    fn room_thaws_a_limit_unless_the_share_is_less() {
        let now = Instant::now();
        for (share, thawed) in [(None, true), (Some(0), false), (Some(1), true), (Some(8), true)] {
            let mut state = frozen();
            thaw(&mut state, &seen(now), share, now);
            assert_eq!(state.ledger.frozen().is_none(), thawed, "with a share of {share:?}");
        }
    }

    #[test]
    fn what_was_seen_before_a_loss_thaws_nothing() {
        let now = Instant::now();
        let (mut state, seen) = (frozen(), seen(now));
        thaw(&mut state, &seen, None, seen.sent + Duration::from_millis(1));
        assert_eq!(state.ledger.frozen(), Some(1));
    }
}
