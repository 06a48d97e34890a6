//! What is wrong with a server's connections, as data.

mod holders;
mod probe;
mod registry;
mod report;

pub use holders::{Holder, Holders};
pub use probe::{Access, Probe, Target};
pub use registry::{Registry, RegistryMember};
pub use report::{
    Capacity, Check, Latency, Level, Reachability, Report, SCHEMA_VERSION, ServerReport, Verdict,
    VerdictKind,
};
