//! The servers of a pool: one, which may move, or the nodes of a cluster.

use std::sync::Arc;

use redis::RedisError;

use super::cluster::Cluster;
use super::context::Context;
use super::node::Node;
use crate::vocabulary::routing::slot;
use crate::{Error, Rejection};

#[derive(Clone, Debug)]
pub(super) enum Servers {
    One(Arc<Node>),
    Cluster(Arc<Cluster>),
}

impl Servers {
    pub(super) fn context(&self) -> &Arc<Context> {
        match self {
            Self::One(node) => &node.context,
            Self::Cluster(cluster) => &cluster.context,
        }
    }

    /// Each of them that has not left.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        match self {
            Self::One(node) => vec![Arc::clone(node)],
            Self::Cluster(cluster) => cluster.nodes(),
        }
    }

    /// The same, and those that have left while somebody holds a lease of theirs.
    pub(super) fn nodes_in_use(&self) -> Vec<Arc<Node>> {
        match self {
            Self::One(node) => vec![Arc::clone(node)],
            Self::Cluster(cluster) => cluster.nodes_in_use(),
        }
    }

    /// The one where that is counted which belongs to none in particular.
    pub(super) fn first(&self) -> Arc<Node> {
        match self {
            Self::One(node) => Arc::clone(node),
            Self::Cluster(cluster) => cluster.first(),
        }
    }

    /// The server that takes writes of this key, or for `None` any one.
    pub(super) async fn primary_of(&self, key: Option<&[u8]>) -> Result<Arc<Node>, Error> {
        match self {
            Self::One(node) => Ok(Arc::clone(node)),
            Self::Cluster(cluster) => {
                cluster.ready().await?;
                key.map_or_else(|| cluster.any(), |key| cluster.node_of(slot(key), false))
            }
        }
    }

    /// Whether an error of a node's says that another one has the slot; it is known from then on.
    pub(super) fn learns(&self, asked: &Arc<Node>, error: &RedisError) -> bool {
        match self {
            Self::One(_) => false,
            Self::Cluster(cluster) => cluster.redirected(asked, error).is_some(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::One(node) => node.is_closed(),
            Self::Cluster(cluster) => cluster.is_closed(),
        }
    }

    /// Completes when the pool is closed.
    pub(super) async fn closed(&self) {
        match self {
            Self::One(node) => node.closed().await,
            Self::Cluster(cluster) => cluster.closed().await,
        }
    }

    /// Refuses everybody from now on, and closes what is idle. Leases stay valid.
    pub(super) fn shut(&self) {
        match self {
            Self::One(node) => node.shut(),
            Self::Cluster(cluster) => cluster.shut(),
        }
    }

    /// Why a caller would be refused now, whatever it wants, if that is so. The next dial is made for it all
    /// the same.
    pub(super) fn refusal(&self) -> Option<Rejection> {
        match self {
            Self::One(node) => node.refusal(),
            Self::Cluster(cluster) => cluster.refusal(),
        }
    }
}
