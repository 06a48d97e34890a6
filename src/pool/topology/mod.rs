//! Topologies: where the server of a node is.

pub(super) mod place;
pub(super) mod single;

#[cfg(test)]
mod tests;
