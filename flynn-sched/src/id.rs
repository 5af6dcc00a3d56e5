//! Identities, parsed once at the edge.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident ($what:literal, $max:literal, $allowed:expr, $why:literal);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses an id.
            ///
            /// # Errors
            ///
            /// [`Error::Invalid`] says which characters are allowed.
            pub fn parse(id: impl Into<String>) -> Result<Self> {
                let id = id.into();
                let allowed: fn(u8) -> bool = $allowed;
                if !id.is_empty() && id.len() <= $max && id.bytes().all(allowed) {
                    Ok(Self(id.into()))
                } else {
                    Err(Error::Invalid { what: format!("{} {id:?}", $what), why: $why.to_owned() })
                }
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                Self::parse(text)
            }
        }
        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                Self::parse(text)
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }
    )*};
}

ids! {
    /// A host of the cell: lower-case letters and digits, at most 63 bytes. No dashes: on the wire a job is named
    /// `host-job`, and the first dash separates the two.
    HostId ("host id", 63, |b| b.is_ascii_lowercase() || b.is_ascii_digit(),
        "use 1 to 63 of a-z and 0-9, without dashes");
    /// A namespace: whose jobs are counted against one quota. Lower-case letters, digits and dashes, at most 63 bytes.
    Namespace ("namespace", 63, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-',
        "use 1 to 63 of a-z, 0-9 and dashes");
    /// A job: one placed copy of a group. Lower-case letters, digits and dashes, at most 63 bytes; a UUID by custom.
    JobId ("job id", 63, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-',
        "use 1 to 63 of a-z, 0-9 and dashes");
    /// A reservation: lower-case letters, digits and dashes, at most 63 bytes.
    ReservationId ("reservation id", 63, |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-',
        "use 1 to 63 of a-z, 0-9 and dashes");
    /// A group of interchangeable jobs: letters, digits, `-`, `_` and `.`, at most 200 bytes. The controller uses
    /// `app-id.release-id.process-type`.
    GroupId ("group id", 200, |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'),
        "use 1 to 200 of letters, digits, '-', '_' and '.'");
}

impl Default for Namespace {
    /// `default`.
    fn default() -> Self {
        static DEFAULT: std::sync::LazyLock<Namespace> =
            std::sync::LazyLock::new(|| Namespace(Arc::from("default")));
        DEFAULT.clone()
    }
}
