//! What fuzzing runs: one function a target, which takes any bytes and panics where a promise is broken.
//!
//! ```text
//! cargo +nightly fuzz run pool target/fuzz/pool fuzz/corpus/pool     # new inputs go to the first folder
//! cargo test --lib fuzz                                              # replays what is kept in fuzz/corpus
//! ```
//!
//! An input that has found something stays in `fuzz/corpus`.

pub mod client_list;
pub mod info;
pub mod pool;
pub mod registry;
mod server;
pub mod url;

#[cfg(test)]
mod replay;
