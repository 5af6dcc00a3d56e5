//! Identities, parsed once at the edge.

use std::{cmp::Ordering, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident ($what:literal, $max:literal, $allowed:expr, $why:literal);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name {
            /// The first bytes of the text. They decide most comparisons without a look at the text, which lies
            /// elsewhere in memory; the order is that of the text.
            head: u64,
            text: Arc<str>,
        }

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
                    Ok(Self { head: head(&id), text: id.into() })
                } else {
                    Err(Error::Invalid { what: format!("{} {id:?}", $what), why: $why.to_owned() })
                }
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.text
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.cmp(other).is_eq()
            }
        }
        impl Eq for $name {}
        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                match self.head.cmp(&other.head) {
                    Ordering::Equal => compare(&self.text, &other.text),
                    other => other,
                }
            }
        }
        impl Head for $name {
            fn head(&self) -> u64 {
                self.head
            }
        }
        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.text
            }
        }
        impl std::hash::Hash for $name {
            /// As the text, which may be used to look ids up.
            fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
                self.text.hash(state);
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.text)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text)
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
                id.text.as_ref().to_owned()
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
        static DEFAULT: std::sync::LazyLock<Namespace> = std::sync::LazyLock::new(|| Namespace {
            head: head("default"),
            text: Arc::from("default"),
        });
        DEFAULT.clone()
    }
}

/// How an id begins.
pub(crate) trait Head {
    /// A number in whose order ids are, but for those that begin alike.
    fn head(&self) -> u64;
}

/// Compares texts with equal heads, and looks at them only if it must: a copy of an id shares its text, and a text that is
/// no longer than its head is all in it.
fn compare(a: &Arc<str>, b: &Arc<str>) -> Ordering {
    if Arc::ptr_eq(a, b) || a.len().max(b.len()) <= HEAD {
        // The shorter of two with equal heads would have a zero in its own, and no text has one.
        return Ordering::Equal;
    }
    a.cmp(b)
}

/// The first eight bytes as a number, the first being the most significant; zeros where there are fewer.
fn head(text: &str) -> u64 {
    let mut head = [0; HEAD];
    for (to, from) in head.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    u64::from_be_bytes(head)
}

const HEAD: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_the_order_of_their_texts_and_are_found_by_them() {
        let texts = [
            "a",
            "a0",
            "aaaaaaaa",
            "aaaaaaaa0",
            "aaaaaaaab",
            "ab",
            "b",
            "0",
            "z",
            "aaaaaaa",
        ];
        let id = |text: &str| GroupId::parse(text).unwrap();
        for a in texts {
            for b in texts {
                assert_eq!(id(a).cmp(&id(b)), a.cmp(b), "{a} {b}");
                assert_eq!(id(a) == id(b), a == b);
            }
        }
        let set: std::collections::HashSet<GroupId> = texts.into_iter().map(id).collect();
        assert!(texts.iter().all(|text| set.contains(*text)));
        let sorted: std::collections::BTreeSet<GroupId> = texts.into_iter().map(id).collect();
        assert!(texts.iter().all(|text| sorted.contains(*text)));
    }
}
