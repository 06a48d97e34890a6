//! Guides, beside the documentation of each item.

#[doc = include_str!("migrating.md")]
pub mod migrating {}

#[doc = include_str!("reliability.md")]
pub mod reliability {}

#[doc = include_str!("topologies.md")]
pub mod topologies {}

#[doc = include_str!("tuning.md")]
pub mod tuning {}

#[doc = include_str!("operating.md")]
pub mod operating {}
