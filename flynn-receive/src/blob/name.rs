//! Names of blobs, parsed once at the edge.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The name of a blob: one or more segments joined by `/`, such as `slugs/0a1b.tgz`.
///
/// A segment is letters, digits, `.`, `_` and `-`, and does not begin with `.`: no name leaves its directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobName(Arc<str>);

impl BlobName {
    /// The longest name, in bytes: with its ending it is one file name.
    pub const MAX_LEN: usize = 200;

    /// Parses a name.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what is allowed.
    pub fn parse(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let fits = name.len() <= Self::MAX_LEN
            && name.split('/').all(|segment| {
                !segment.is_empty()
                    && !segment.starts_with('.')
                    && segment
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            });
        if fits {
            Ok(Self(name.into()))
        } else {
            Err(Error::invalid(
                format!("blob name {name:?}"),
                "use segments of letters, digits, '.', '_' and '-' joined by '/', none beginning with '.', at most 200 bytes",
            ))
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for BlobName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::parse(name)
    }
}

impl From<BlobName> for String {
    fn from(name: BlobName) -> Self {
        name.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leaves_its_directory() {
        for bad in [
            "", "/", "a/", "/a", "a//b", "..", "a/../b", "./a", "a/.", ".hidden", "a/.b", "a b",
            "a\0b", "a%2e", "ä", "a\\b",
        ] {
            assert!(BlobName::parse(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(BlobName::parse("x".repeat(201)).is_err());
        for good in ["a", "slugs/0a1b.tgz", "caches/my-app_1..tgz"] {
            assert_eq!(BlobName::parse(good).unwrap().as_str(), good);
        }
    }
}
