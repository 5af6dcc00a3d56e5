//! One running copy of a service.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::InstanceId;

/// One running copy of a service: where it listens and what it says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its identity; registering the same id again replaces the earlier registration.
    pub id: InstanceId,
    /// `host:port` (IPv6 addresses in brackets).
    pub addr: String,
    /// The protocol spoken at `addr`: `tcp`, `http`, ….
    pub proto: String,
    /// Attributes, free to choose.
    #[serde(default, rename = "meta", deserialize_with = "null_is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Position in the order of registration; the lowest is the oldest. Set by the registry; 0 before.
    #[serde(default, rename = "index", skip_serializing_if = "is_zero")]
    pub created: u64,
}

impl Instance {
    /// An instance without attributes, at `addr` (`host:port`), which speaks `proto`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) when `id` is not an [`InstanceId`].
    pub fn new(
        id: impl Into<String>,
        addr: impl Into<String>,
        proto: impl Into<String>,
    ) -> crate::Result<Self> {
        Ok(Self {
            id: InstanceId::parse(id)?,
            addr: addr.into(),
            proto: proto.into(),
            attributes: BTreeMap::new(),
            created: 0,
        })
    }

    /// With one more attribute.
    #[must_use]
    pub fn with_attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Go clients send `null` for an empty map.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
