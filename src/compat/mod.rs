//! The names of other pools over a [`GuardedPool`](crate::GuardedPool): for a service that has them in its
//! signatures, so that what changes is where it imports them from.
//!
//! ```diff
//! -use deadpool_redis::{Config, Connection, Pool, PoolError, Runtime};
//! +use redis_guard::compat::deadpool_redis::{Config, Connection, Pool, PoolError, Runtime};
//! ```
//!
//! | from | import from |
//! |---|---|
//! | deadpool-redis 0.23 | [`compat::deadpool_redis`](deadpool_redis) |
//! | bb8 0.9 with bb8-redis 0.26 | [`compat::bb8`](bb8) |
//! | redis-rs's `ConnectionManager` | nothing: [`SharedConnection`](crate::SharedConnection) is its like |
//!
//! What these types cannot do as their models do is not there, so that code which counts on it does not
//! compile; each module says what that is. Behind every such pool stands a `GuardedPool`, which `guarded()`
//! gives, for budgets, shared handles, subscribers and all else.
//!
//! Whole services before and after, and what changed: [`guide::migrating`](crate::guide::migrating).

pub mod bb8;
pub mod deadpool_redis;
