//! How many connections an endpoint may hold.

/// How many connections an endpoint may hold at a time.
///
/// `max` keeps one endpoint, or one leak, from taking the pool; `reserve` keeps connections for
/// it that nobody else may take. Both count sockets of this process's share,
/// [`max_connections`](crate::GuardedPoolBuilder::max_connections).
///
/// ```
/// use redis_guard::Budget;
///
/// let checkout = Budget::max(8).reserve(2); // at most 8, and 2 are always kept for it
/// # let _ = checkout;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    max: usize,
    reserve: usize,
}

impl Budget {
    /// At most `max` connections at a time, none of them reserved. Zero is reported by
    /// [`build`](crate::GuardedPoolBuilder::build).
    #[must_use]
    pub const fn max(max: usize) -> Self {
        Self { max, reserve: 0 }
    }

    /// Keeps `reserve` connections for this endpoint: the others may not take the pool's last
    /// ones. More than `max`, or more than the pool has left, is reported by
    /// [`build`](crate::GuardedPoolBuilder::build). When the pool's limit falls below the sum of
    /// all reserves they shrink in proportion.
    #[must_use]
    pub const fn reserve(mut self, reserve: usize) -> Self {
        self.reserve = reserve;
        self
    }

    pub(crate) const fn max_connections(self) -> usize {
        self.max
    }

    pub(crate) const fn reserved(self) -> usize {
        self.reserve
    }

    /// What is wrong with the values, if anything.
    pub(crate) fn problem(self) -> Option<String> {
        let Self { max, reserve } = self;
        if max == 0 {
            Some("max is 0, so nobody could ever be served".to_owned())
        } else if reserve > max {
            Some(format!("reserve {reserve} is above its max {max}"))
        } else {
            None
        }
    }
}
