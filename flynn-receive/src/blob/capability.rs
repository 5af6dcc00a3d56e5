//! Short-lived permission to do one thing to the blob store.
//!
//! A build job holds no secret of the cluster: it is given a URL that names one method, one path and a time, signed
//! with a key that only the blob servers and the receivers have.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::unix_millis;
use crate::{Error, Result};

/// What a capability permits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Grant {
    /// To read this path.
    Get(String),
    /// To write this path.
    Put(String),
    /// To write below this directory, under names that are the SHA-256 of what is written: `<dir>/<sha256>.tgz`.
    ///
    /// Nothing that exists can be changed with it.
    PutByDigest(String),
}

impl Grant {
    fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Get(path) => ("get", path),
            Self::Put(path) => ("put", path),
            Self::PutByDigest(dir) => ("put-by-digest", dir),
        }
    }
}

/// A permission with its end and its bound, signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability {
    /// What is permitted.
    pub grant: Grant,
    /// When it ends, in milliseconds since 1970.
    pub expires: u64,
    /// The most bytes one upload may have.
    pub limit: u64,
    signature: String,
}

impl Capability {
    /// The capability as the query of a URL.
    #[must_use]
    pub fn to_query(&self) -> String {
        let (kind, path) = self.grant.parts();
        format!(
            "grant={kind}&on={}&expires={}&limit={}&signature={}",
            path.replace('/', "%2F"),
            self.expires,
            self.limit,
            self.signature
        )
    }

    /// Reads the query of a URL; `None` if it holds no capability.
    #[must_use]
    pub fn from_query(query: &str) -> Option<Self> {
        let field = |name: &str| {
            query
                .split('&')
                .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
        };
        let on = field("on")?.replace("%2F", "/").replace("%2f", "/");
        let grant = match field("grant")? {
            "get" => Grant::Get(on),
            "put" => Grant::Put(on),
            "put-by-digest" => Grant::PutByDigest(on),
            _ => return None,
        };
        Some(Self {
            grant,
            expires: field("expires")?.parse().ok()?,
            limit: field("limit")?.parse().ok()?,
            signature: field("signature")?.to_owned(),
        })
    }
}

/// The key that signs capabilities, the same on every receiver and blob server of a cluster.
#[derive(Clone)]
pub struct CapabilityKey(Hmac<Sha256>);

impl CapabilityKey {
    /// Derives the key from a secret of the cluster; the secret cannot be learnt from what is signed.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "HMAC takes a key of any length")]
    pub fn derive(secret: &[u8]) -> Self {
        let mut outer =
            Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
        outer.update(b"flynn blob capability 1");
        let key = outer.finalize().into_bytes();
        Self(Hmac::new_from_slice(&key).expect("HMAC takes a key of any length"))
    }

    /// Permits `grant` for `lifetime` from now, with at most `limit` bytes an upload.
    #[must_use]
    pub fn grant(&self, grant: Grant, lifetime: Duration, limit: u64) -> Capability {
        let lifetime = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        let expires = unix_millis().saturating_add(lifetime);
        let signature = hex::encode(self.mac(&grant, expires, limit).finalize().into_bytes());
        Capability {
            grant,
            expires,
            limit,
            signature,
        }
    }

    /// Is `capability` signed with this key, and not over?
    ///
    /// # Errors
    ///
    /// [`Error::Denied`] says which.
    pub fn check(&self, capability: &Capability) -> Result<()> {
        let denied = |why: &str| Error::Denied {
            why: why.to_owned(),
        };
        let signature = hex::decode(&capability.signature)
            .map_err(|_| denied("the URL's signature is not hexadecimal"))?;
        self.mac(&capability.grant, capability.expires, capability.limit)
            .verify_slice(&signature)
            .map_err(|_| denied("the URL's signature is wrong"))?;
        if capability.expires < unix_millis() {
            return Err(denied("the URL has expired"));
        }
        Ok(())
    }

    fn mac(&self, grant: &Grant, expires: u64, limit: u64) -> Hmac<Sha256> {
        let (kind, path) = grant.parts();
        let mut mac = self.0.clone();
        mac.update(format!("{kind}\n{path}\n{expires}\n{limit}\n").as_bytes());
        mac
    }
}

impl std::fmt::Debug for CapabilityKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CapabilityKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_is_good_for_what_was_signed_and_nothing_else() {
        let key = CapabilityKey::derive(b"secret");
        let grant = Grant::Put("caches/a.tgz".to_owned());
        let signed = key.grant(grant, Duration::from_secs(60), 10);
        let read = Capability::from_query(&signed.to_query()).unwrap();
        assert_eq!(read, signed);
        key.check(&read).unwrap();

        let forgeries = [
            Capability {
                grant: Grant::Put("caches/b.tgz".to_owned()),
                ..read.clone()
            },
            Capability {
                grant: Grant::Get("caches/a.tgz".to_owned()),
                ..read.clone()
            },
            Capability {
                expires: read.expires + 1,
                ..read.clone()
            },
            Capability {
                limit: 11,
                ..read.clone()
            },
            Capability {
                signature: "zz".to_owned(),
                ..read.clone()
            },
        ];
        for forged in forgeries {
            assert!(key.check(&forged).is_err(), "{forged:?} was accepted");
        }
        assert!(CapabilityKey::derive(b"other").check(&read).is_err());
    }

    #[test]
    fn a_capability_ends() {
        let key = CapabilityKey::derive(b"secret");
        let mut over = key.grant(Grant::Get("a".to_owned()), Duration::ZERO, 10);
        over.expires = 1;
        over.signature = hex::encode(key.mac(&over.grant, 1, 10).finalize().into_bytes());
        let why = key.check(&over).unwrap_err().to_string();
        assert_eq!(why, "not authorized: the URL has expired");
    }
}
