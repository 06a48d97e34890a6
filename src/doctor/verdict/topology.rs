//! Verdicts on a master that sentinels watch, and on a cluster: each is the failure of one check.

use crate::doctor::report::{Check, Level, Verdict, VerdictKind};

/// What leads clients astray, which comes before what is wrong with the server; and what will hurt with the
/// next failover, which comes after it.
pub(super) fn verdicts(checks: &[Check]) -> (Vec<Verdict>, Vec<Verdict>) {
    let found = checks.iter().filter(|check| check.level == Level::Failed).filter_map(of);
    found.partition(|verdict| verdict.kind != VerdictKind::NoFailover)
}

fn of(check: &Check) -> Option<Verdict> {
    let (kind, summary) = match check.id {
        "sentinel.state" => (VerdictKind::MasterDown, "the sentinels do not reach the master"),
        "sentinel.master" => {
            (VerdictKind::NotMaster, "what the sentinels name as the master is none")
        }
        "sentinel.agreement" => (
            VerdictKind::SentinelsDisagree,
            "the sentinels do not name the same master: clients write to different servers",
        ),
        "sentinel.quorum" => {
            (VerdictKind::NoFailover, "the sentinels could not authorise a failover now")
        }
        "sentinel.replicas" => (VerdictKind::NoFailover, "there is no replica to fail over to"),
        "sentinel.addresses" => (
            VerdictKind::AnnouncedUnreachable,
            "what the sentinels announce cannot be reached from here",
        ),
        "cluster.state" => {
            (VerdictKind::ClusterDown, "the cluster does not serve all of its slots")
        }
        "cluster.agreement" => (
            VerdictKind::NodesDisagree,
            "the nodes do not agree on whose a slot is: clients are sent back and forth",
        ),
        "cluster.addresses" => (
            VerdictKind::AnnouncedUnreachable,
            "what the cluster announces cannot be reached from here",
        ),
        "cluster.replicas" => {
            (VerdictKind::NoFailover, "there is a master without a replica to fail over to")
        }
        _ => return None,
    };
    let verdict = Verdict::new(kind, summary).reason(check.evidence.clone());
    Some(match &check.fix {
        Some(fix) => verdict.action(fix.clone()),
        None => verdict,
    })
}
