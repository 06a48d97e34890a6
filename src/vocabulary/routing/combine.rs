//! How one reply is made of several nodes' replies.

use std::collections::HashSet;
use std::vec;

use redis::{ErrorKind, RedisError, RedisResult, Value};

/// How one reply is made of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Combine {
    /// The first: all say the same.
    First,
    /// The first; one node's success is enough, whatever the others answer.
    FirstSuccess,
    /// The first that is not nil.
    FirstNotNil,
    /// Numbers are added up; arrays place by place, and what is no number must be the same.
    Sum,
    /// The least number; arrays place by place.
    Least,
    /// Arrays one after another.
    Concat,
    /// As [`Concat`](Self::Concat), each name once.
    Union,
    /// Arrays, one element of one at a time: by number, the reply that has the next.
    InOrder(Vec<usize>),
}

impl Combine {
    /// Whether the command has succeeded when one node's has: errors of others are then left out.
    pub(crate) fn one_is_enough(&self) -> bool {
        *self == Self::FirstSuccess
    }

    /// One reply of all `replies`, which are in the order of the parts or the nodes, without errors.
    ///
    /// # Errors
    ///
    /// The replies are not such as the command has, or there is none.
    pub(crate) fn combine(&self, replies: Vec<Value>) -> RedisResult<Value> {
        let mut replies = replies.into_iter();
        match self {
            Self::First | Self::FirstSuccess => replies.next(),
            Self::FirstNotNil => {
                Some(replies.find(|reply| *reply != Value::Nil).unwrap_or(Value::Nil))
            }
            Self::Sum => reduce(replies, i64::saturating_add),
            Self::Least => reduce(replies, i64::min),
            Self::Concat => concat(replies).map(Value::Array),
            Self::Union => concat(replies).map(|mut all| {
                let mut seen = HashSet::new();
                all.retain(|name| match name {
                    Value::BulkString(name) => seen.insert(name.clone()),
                    _ => true,
                });
                Value::Array(all)
            }),
            Self::InOrder(order) => {
                let arrays: Option<Vec<_>> = replies.map(elements).collect();
                arrays.and_then(|mut arrays| {
                    let all = order.iter().map(|at| arrays.get_mut(*at)?.next());
                    all.collect::<Option<_>>().map(Value::Array)
                })
            }
        }
        .ok_or_else(|| {
            let why = "the replies of the cluster's nodes do not fit together";
            RedisError::from((ErrorKind::UnexpectedReturnType, why))
        })
    }
}

fn concat(replies: impl Iterator<Item = Value>) -> Option<Vec<Value>> {
    let arrays: Option<Vec<_>> = replies.map(elements).collect();
    Some(arrays?.into_iter().flatten().collect())
}

fn elements(reply: Value) -> Option<vec::IntoIter<Value>> {
    match reply {
        Value::Array(elements) | Value::Set(elements) => Some(elements.into_iter()),
        _ => None,
    }
}

fn reduce(mut replies: impl Iterator<Item = Value>, op: fn(i64, i64) -> i64) -> Option<Value> {
    let first = replies.next()?;
    replies.try_fold(first, |all, one| both(all, one, op))
}

fn both(all: Value, one: Value, op: fn(i64, i64) -> i64) -> Option<Value> {
    match (all, one) {
        (Value::Int(all), Value::Int(one)) => Some(Value::Int(op(all, one))),
        (Value::Array(all), Value::Array(one)) if all.len() == one.len() => {
            let both = all.into_iter().zip(one).map(|(all, one)| both(all, one, op));
            both.collect::<Option<_>>().map(Value::Array)
        }
        (all, one) => (all == one).then_some(all),
    }
}
