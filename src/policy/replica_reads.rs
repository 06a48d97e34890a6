//! Where a cluster's replicas are read from.

/// Whether a [cluster](crate::GuardedPool::cluster)'s replicas answer reads, for
/// [`replica_reads`](crate::GuardedPoolBuilder::replica_reads).
///
/// A read is a command that the server flags `readonly`, by its name; a pipeline's commands count one by one,
/// but an atomic pipeline, a lease from [`acquire_for`](crate::GuardedPool::acquire_for) and whatever else is
/// not sent by its keys alone go to the primary. A replica lags behind: what was just written may not be there
/// yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplicaReads {
    /// All commands go to the primaries. The pool has nothing to do with replicas, and takes none of their
    /// slots.
    #[default]
    Off,
    /// Reads go to the replicas of a slot in turn, and to its primary while none of them serves.
    Prefer,
    /// Reads go to the replicas of a slot in turn, and fail while none of them serves.
    Only,
}
