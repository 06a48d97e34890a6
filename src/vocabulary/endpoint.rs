//! Endpoints: the names that connection budgets, metrics and rejections go by.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::sync::Arc;

use metrics::SharedString;

/// The most distinct endpoints a pool keeps apart; later names count as [`Endpoint::OTHER`], so
/// that metric labels stay bounded whatever a caller derives its names from.
pub(crate) const MAX_ENDPOINTS: usize = 256;

/// The longest name in bytes: metric labels and log fields stay readable.
const MAX_NAME: usize = 64;

/// A short name for a part of the application that uses Redis: a route, a job, a feature.
///
/// Each endpoint has a [`Budget`](crate::Budget) of connections. A string literal costs nothing
/// to convert; names made at run time are kept in an `Arc<str>`, so clone the `Endpoint` rather
/// than formatting the name for every call.
///
/// A valid name is 1 to 64 bytes long, has no control characters, and is not [`Endpoint::LANES`], which
/// the pool uses itself. [`build`] reports an invalid name; one that first appears in [`acquire`] counts
/// as [`Endpoint::OTHER`], and so does every name after the 256th.
///
/// ```
/// use redis_guard::Endpoint;
///
/// let fixed = Endpoint::from("checkout");
/// let made = Endpoint::from(format!("tenant-{}", 7));
/// assert_eq!(made.as_str(), "tenant-7");
/// # let _ = fixed;
/// ```
///
/// [`build`]: crate::GuardedPoolBuilder::build
/// [`acquire`]: crate::GuardedPool::acquire
#[derive(Clone)]
pub struct Endpoint(Repr);

#[derive(Clone)]
enum Repr {
    Static(&'static str),
    Shared(Arc<str>),
}

impl Endpoint {
    /// The endpoint of [`GuardedPool::get`](crate::GuardedPool::get), for code that names none.
    pub const DEFAULT: Self = Self(Repr::Static("default"));

    /// Where names beyond the bound, and invalid ones, are counted. It has the default budget, unless it
    /// is given one.
    pub const OTHER: Self = Self(Repr::Static("other"));

    /// What the connections of [`shared`](crate::GuardedPool::shared) handles are counted as, in
    /// [`status`](crate::GuardedPool::status) and metrics. No caller can use it: as an endpoint's name it
    /// counts as [`OTHER`](Self::OTHER), and a budget for it is a mistake.
    pub const LANES: Self = Self(Repr::Static("shared-lanes"));

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Static(name) => name,
            Repr::Shared(name) => name,
        }
    }

    /// What is wrong with the name, if anything.
    pub(crate) fn problem(&self) -> Option<String> {
        let name = self.as_str();
        if name.is_empty() {
            Some("is empty".to_owned())
        } else if name.chars().any(char::is_control) {
            Some("has control characters".to_owned())
        } else if name.len() > MAX_NAME {
            Some(format!("is longer than {MAX_NAME} bytes"))
        } else if *self == Self::LANES {
            Some("is kept for the shared connections".to_owned())
        } else {
            None
        }
    }

    /// The name as a metric's label.
    pub(crate) fn into_label(self) -> SharedString {
        match self.0 {
            Repr::Static(name) => SharedString::const_str(name),
            Repr::Shared(name) => SharedString::from_shared(name),
        }
    }
}

impl From<&'static str> for Endpoint {
    fn from(name: &'static str) -> Self {
        Self(Repr::Static(name))
    }
}

impl From<String> for Endpoint {
    fn from(name: String) -> Self {
        Self(Repr::Shared(name.into()))
    }
}

impl From<Arc<str>> for Endpoint {
    fn from(name: Arc<str>) -> Self {
        Self(Repr::Shared(name))
    }
}

impl From<Cow<'static, str>> for Endpoint {
    fn from(name: Cow<'static, str>) -> Self {
        match name {
            Cow::Borrowed(name) => name.into(),
            Cow::Owned(name) => name.into(),
        }
    }
}

impl From<&Endpoint> for Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        endpoint.clone()
    }
}

impl Borrow<str> for Endpoint {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq for Endpoint {
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.as_str(), other.as_str());
        // Mostly the same literal: then the address tells.
        std::ptr::eq(a, b) || a == b
    }
}

impl Eq for Endpoint {}

impl std::hash::Hash for Endpoint {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl serde::Serialize for Endpoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn names_are_equal_however_they_were_made() {
        assert_eq!(Endpoint::from("a"), Endpoint::from("a".to_owned()));
        assert_eq!(Endpoint::from(Cow::Borrowed("a")), Endpoint::from(Arc::<str>::from("a")));
        assert_ne!(Endpoint::from("a"), Endpoint::from("b"));
    }

    #[test]
    fn an_endpoint_is_found_by_its_name_alone() {
        let of = HashMap::from(
            [("cart", 1), ("search", 2)].map(|(name, at)| (Endpoint::from(name), at)),
        );
        assert_eq!(
            ["cart", "search", "other"].map(|name| of.get(name)),
            [Some(&1), Some(&2), None]
        );
    }

    #[test]
    fn a_name_is_the_same_wherever_it_is_shown() {
        for cart in [Endpoint::from("cart"), Endpoint::from("cart".to_owned())] {
            assert_eq!(format!("{cart} {cart:?}"), "cart \"cart\"");
            assert_eq!(serde_json::to_value(&cart).expect("a string"), "cart");
            assert_eq!(&*cart.into_label(), "cart");
        }
    }

    #[test]
    fn invalid_names_say_why() {
        assert_eq!(Endpoint::from("").problem().as_deref(), Some("is empty"));
        assert_eq!(Endpoint::from("a\nb").problem().as_deref(), Some("has control characters"));
        assert!(Endpoint::from("x".repeat(65)).problem().is_some());
        assert_eq!(Endpoint::from("x".repeat(64)).problem(), None);
        let kept = Endpoint::from("shared-lanes".to_owned()).problem();
        assert!(kept.is_some_and(|problem| problem.contains("shared connections")));
    }
}
