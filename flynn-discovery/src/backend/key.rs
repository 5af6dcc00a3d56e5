//! Keys and the prefixes that name directories of them.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Error, Result};

/// A key: one or more segments joined by `/`, each 1 or more of visible ASCII except `/`; at most 512 bytes.
///
/// `.` and `..` are not segments. Paths are what etcd, ZooKeeper and our own stores all have. A key is cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The longest key, in bytes.
    pub const MAX_LEN: usize = 512;

    /// Parses a key.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what is allowed.
    pub fn parse(key: impl AsRef<str>) -> Result<Self> {
        let key = key.as_ref();
        if is_key(key) {
            Ok(Self(key.into()))
        } else {
            Err(Error::Invalid {
                what: format!("key {key:?}"),
                why: "a key is segments of visible ASCII joined by '/', at most 512 bytes"
                    .to_owned(),
            })
        }
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// All keys below a directory: empty (every key) or segments each followed by `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// Every key.
    #[must_use]
    pub fn root() -> Self {
        Self(Arc::from(""))
    }

    /// Parses a prefix; a missing `/` at the end is an error, so that `jobs/a` is never taken for `jobs/ab`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what is allowed.
    pub fn parse(prefix: impl AsRef<str>) -> Result<Self> {
        let prefix = prefix.as_ref();
        if prefix.is_empty() || prefix.strip_suffix('/').is_some_and(is_key) {
            Ok(Self(prefix.into()))
        } else {
            Err(Error::Invalid {
                what: format!("prefix {prefix:?}"),
                why: "a prefix is empty or a key followed by '/'".to_owned(),
            })
        }
    }

    /// The prefix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is `key` below this prefix?
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        key.0.starts_with(&*self.0)
    }

    /// The key `rest` below this prefix.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the result is not a key.
    pub fn key(&self, rest: impl fmt::Display) -> Result<Key> {
        Key::parse(format!("{}{rest}", self.0))
    }

    /// The prefix `rest` below this prefix; `rest` ends with `/` or is empty.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the result is not a prefix.
    pub fn prefix(&self, rest: impl fmt::Display) -> Result<Self> {
        Self::parse(format!("{}{rest}", self.0))
    }

    /// The part of `key` behind this prefix, if it is below it.
    #[must_use]
    pub fn strip<'k>(&self, key: &'k Key) -> Option<&'k str> {
        key.0.strip_prefix(&*self.0)
    }
}

fn is_key(key: &str) -> bool {
    key.len() <= Key::MAX_LEN
        && key.split('/').all(|segment| {
            !segment.is_empty()
                && segment != "."
                && segment != ".."
                && segment.bytes().all(|b| b.is_ascii_graphic())
        })
}

macro_rules! text_like {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
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
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
        // Equality, order and hash are those of the text, so maps can be searched by text.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
        // Written by hand: the text is checked where it lies and copied once.
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(stringify!($name))
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::parse(text).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    )*};
}
text_like!(Key, Prefix);
