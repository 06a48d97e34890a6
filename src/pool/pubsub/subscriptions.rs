//! What a subscriber is subscribed to.

use std::collections::BTreeSet;

use futures_util::future::try_join_all;
use redis::RedisResult;

use crate::dial::{Kind, Sink};

/// The names of each kind, in the order of [`Kind::ALL`].
#[derive(Clone, Debug, Default)]
pub(super) struct Subscriptions([BTreeSet<Vec<u8>>; Kind::ALL.len()]);

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(BTreeSet::len).sum()
    }

    pub(super) fn add(&mut self, kind: Kind, names: Vec<Vec<u8>>) {
        self.0[kind as usize].extend(names);
    }

    pub(super) fn remove(&mut self, kind: Kind, names: &[Vec<u8>]) {
        self.0[kind as usize].retain(|name| !names.contains(name));
    }

    pub(super) fn all(&self, kind: Kind) -> Vec<Vec<u8>> {
        self.0[kind as usize].iter().cloned().collect()
    }

    /// Makes them on a connection that has none.
    pub(super) async fn make(&self, sink: &Sink) -> RedisResult<()> {
        let made = self.kinds().map(async |(kind, names)| sink.subscribe(kind, &names).await);
        try_join_all(made).await.map(drop)
    }

    /// Ends them on a connection that has them.
    pub(super) async fn end(&self, sink: &Sink) -> RedisResult<()> {
        let ended = self.kinds().map(async |(kind, names)| sink.unsubscribe(kind, &names).await);
        try_join_all(ended).await.map(drop)
    }

    /// Those kinds that there are any of.
    fn kinds(&self) -> impl Iterator<Item = (Kind, Vec<Vec<u8>>)> {
        Kind::ALL
            .map(|kind| (kind, self.all(kind)))
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
    }
}
