//! Who may do what.

use std::fmt;

use async_trait::async_trait;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

use crate::{Error, Result};

/// Decides who may do what.
///
/// It is asked before every request, with the key that was presented. An implementation must not keep or show keys.
#[async_trait]
pub trait Authorizer: fmt::Debug + Send + Sync + 'static {
    /// May the holder of `key` do this? `Ok(false)` if not, or if nobody knows the key.
    ///
    /// # Errors
    ///
    /// When it cannot be decided now.
    async fn is_allowed(&self, key: &str, action: Action, resource: &Resource<'_>) -> Result<bool>;
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Look at it.
    Read,
    /// Create, change or delete it.
    Write,
    /// Run a command with the app's settings, which can read them.
    Run,
}

/// What somebody wants to do it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource<'a> {
    /// The kind, as in the path: `apps`, `releases`, `keys`, ….
    pub kind: &'a str,
    /// The app it belongs to, by id or name as the caller gave it, if the path names one.
    pub app: Option<&'a str>,
}

/// Any of a fixed set of keys may do everything.
///
/// Only digests of the keys are kept. A presented key is compared with all of them in constant time.
#[derive(Clone, Default)]
pub struct StaticKeys {
    digests: Vec<[u8; 32]>,
}

impl StaticKeys {
    /// Accepts any of `keys`; none of them may be empty, and without one nobody is let in.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for an empty key.
    pub fn new<K: AsRef<str>>(keys: impl IntoIterator<Item = K>) -> Result<Self> {
        let mut digests = Vec::new();
        for key in keys {
            if key.as_ref().is_empty() {
                return Err(Error::invalid("key", "must not be empty"));
            }
            digests.push(digest(key.as_ref()));
        }
        Ok(Self { digests })
    }

    /// Accepts the keys with these hex SHA-256 digests, so that the keys themselves need not be stored anywhere.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for what is not such a digest.
    pub fn from_digests<D: AsRef<str>>(digests: impl IntoIterator<Item = D>) -> Result<Self> {
        let mut parsed = Vec::new();
        for text in digests {
            let bytes = hex::decode(text.as_ref()).unwrap_or_default();
            let digest = <[u8; 32]>::try_from(bytes)
                .map_err(|_| Error::invalid("digest", "must be 64 hexadecimal digits"))?;
            parsed.push(digest);
        }
        Ok(Self { digests: parsed })
    }

    /// The hex SHA-256 digest of a key.
    #[must_use]
    pub fn digest_of(key: &str) -> String {
        hex::encode(digest(key))
    }

    fn contains(&self, key: &str) -> bool {
        let presented = digest(key);
        let found = self
            .digests
            .iter()
            .fold(subtle::Choice::from(0), |found, ours| {
                found | ours.ct_eq(&presented)
            });
        found.into()
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

impl fmt::Debug for StaticKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticKeys({})", self.digests.len())
    }
}

#[async_trait]
impl Authorizer for StaticKeys {
    async fn is_allowed(&self, key: &str, _: Action, _: &Resource<'_>) -> Result<bool> {
        Ok(self.contains(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_given_keys_are_let_in() {
        let apps = Resource {
            kind: "apps",
            app: None,
        };
        let keys = StaticKeys::new(["one", "two"]).unwrap();
        for (key, expected) in [
            ("one", true),
            ("two", true),
            ("three", false),
            ("", false),
            ("on", false),
        ] {
            assert_eq!(
                keys.is_allowed(key, Action::Read, &apps).await.unwrap(),
                expected,
                "{key}"
            );
        }
        let stored = StaticKeys::from_digests([StaticKeys::digest_of("one")]).unwrap();
        assert!(
            stored
                .is_allowed("one", Action::Write, &apps)
                .await
                .unwrap()
        );
        assert!(
            !stored
                .is_allowed("two", Action::Write, &apps)
                .await
                .unwrap()
        );
        assert!(
            !StaticKeys::default()
                .is_allowed("", Action::Read, &apps)
                .await
                .unwrap()
        );
        assert!(!format!("{keys:?}").contains("one"));
    }

    #[test]
    fn an_empty_key_and_a_short_digest_are_refused() {
        assert!(StaticKeys::new([""]).is_err());
        assert!(StaticKeys::from_digests(["abcd"]).is_err());
    }
}
