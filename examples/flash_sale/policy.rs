//! The policies that are compared.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Policy {
    Deadpool,
    Gate,
    PriceLaw,
    Lease,
    LeaseShared,
    Multiplex,
}

impl Policy {
    pub(crate) const ALL: [Self; 6] = [
        Self::Deadpool,
        Self::Gate,
        Self::PriceLaw,
        Self::Lease,
        Self::LeaseShared,
        Self::Multiplex,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Deadpool => "deadpool-redis",
            Self::Gate => "gate",
            Self::PriceLaw => "price-law",
            Self::Lease => "lease",
            Self::LeaseShared => "lease-shared",
            Self::Multiplex => "multiplex",
        }
    }

    /// The server is asked how it is.
    pub(crate) fn watches(self) -> bool {
        !matches!(self, Self::Deadpool | Self::Gate)
    }

    pub(crate) fn is_fleet(self) -> bool {
        matches!(self, Self::Lease | Self::LeaseShared)
    }

    pub(crate) fn is_shared(self) -> bool {
        self == Self::LeaseShared
    }
}

impl FromStr for Policy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::as_str).join(", ");
        let named = Self::ALL.into_iter().find(|policy| policy.as_str() == text);
        named.ok_or_else(|| format!("expected one of {}", names()))
    }
}
