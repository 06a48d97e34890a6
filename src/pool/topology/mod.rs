//! Topologies: where the server of a node is.

pub(super) mod member;
pub(super) mod place;
pub(super) mod sentinel;
pub(super) mod settings;
pub(super) mod single;

#[cfg(test)]
mod tests;
