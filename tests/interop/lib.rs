//! Crates that take a redis-rs connection, over a handle of redis-guard's: each test is an example.
