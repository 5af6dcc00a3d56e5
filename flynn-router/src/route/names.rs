//! What a route is named by: an id, a domain, a path. Parsed once at the edge.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{RouteKind, invalid};
use crate::{Error, Result};

/// The identity of a route, written `http/<uuid>` or `tcp/<uuid>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RouteId {
    /// What the route routes.
    pub kind: RouteKind,
    /// The part that is unique.
    pub uuid: Uuid,
}

impl RouteId {
    /// A new id.
    #[must_use]
    pub fn random(kind: RouteKind) -> Self {
        let uuid = Uuid::new_v4();
        Self { kind, uuid }
    }

    /// Parses `http/<uuid>` or `tcp/<uuid>`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what is allowed.
    pub fn parse(id: &str) -> Result<Self> {
        let parse = || {
            let (kind, uuid) = id.split_once('/')?;
            let kind = match kind {
                "http" => RouteKind::Http,
                "tcp" => RouteKind::Tcp,
                _ => return None,
            };
            let uuid = Uuid::parse_str(uuid).ok()?;
            Some(Self { kind, uuid })
        };
        parse().ok_or_else(|| {
            let what = format!("route id {id:?}");
            invalid(what, "a route id is http/<uuid> or tcp/<uuid>")
        })
    }
}

/// The host a route answers for: a name, `*.` and a name for every host below it, or `*` for every host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Domain(Arc<str>);

impl Domain {
    /// The longest domain, in bytes.
    pub const MAX_LEN: usize = 253;

    /// Every host that no other route names.
    #[must_use]
    pub fn any() -> Self {
        Self(Arc::from("*"))
    }

    /// Parses a domain. Upper case becomes lower case, a dot at the end is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what is allowed.
    pub fn parse(domain: impl AsRef<str>) -> Result<Self> {
        let given = domain.as_ref();
        if given == "*" {
            return Ok(Self::any());
        }
        let domain = given.strip_suffix('.').unwrap_or(given);
        let domain = domain.to_ascii_lowercase();
        let labels = domain.strip_prefix("*.").unwrap_or(&domain);
        let fits = domain.len() <= Self::MAX_LEN
            && labels.split('.').all(|label| {
                !label.is_empty()
                    && label.len() <= 63
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            });
        if fits {
            Ok(Self(domain.into()))
        } else {
            Err(invalid(
                format!("domain {given:?}"),
                "a domain is a host name without a port, *.name for all hosts below it, or * for all hosts",
            ))
        }
    }

    /// The domain as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name below which every host fits: `Some("")` for `*`, `None` if this is one host.
    #[must_use]
    pub fn wildcard(&self) -> Option<&str> {
        match self.0.strip_prefix('*') {
            Some("") => Some(""),
            Some(rest) => rest.strip_prefix('.'),
            None => None,
        }
    }
}

/// A path and everything below it; begins and ends with `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPrefix(Arc<str>);

impl PathPrefix {
    /// The longest prefix, in bytes, counting `/` and `%` three times: a store may have to escape them.
    pub const MAX_LEN: usize = 200;

    /// Every path.
    #[must_use]
    pub fn root() -> Self {
        Self(Arc::from("/"))
    }

    /// Parses a prefix; a `/` is added at the end if there is none, and an empty text is every path.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what is allowed.
    pub fn parse(path: impl AsRef<str>) -> Result<Self> {
        let given = path.as_ref();
        if given.is_empty() {
            return Ok(Self::root());
        }
        let path = if given.ends_with('/') {
            given.to_owned()
        } else {
            format!("{given}/")
        };
        let wrong = if !path.starts_with('/') {
            Some("begin with a slash")
        } else if path
            .bytes()
            .any(|b| !b.is_ascii_graphic() || b == b'?' || b == b'#')
        {
            Some("use visible ASCII without ? and #, other characters percent-encoded")
        } else if path.split('/').any(|s| s == "." || s == "..") || path.contains("//") {
            Some("leave out empty, . and .. segments")
        } else if escape(&path).len() > Self::MAX_LEN {
            Some("use a shorter path")
        } else {
            None
        };
        match wrong {
            None => Ok(Self(path.into())),
            Some(why) => Err(invalid(format!("path {given:?}"), why)),
        }
    }

    /// The prefix as text, with the `/` at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is `path` this path or below it, by whole segments?
    #[must_use]
    pub fn contains(&self, path: &str) -> bool {
        let bare = &self.0[..self.0.len() - 1];
        match path.strip_prefix(bare) {
            Some(rest) => rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }
}

/// A text with `/` escaped, so that it can be one segment of a key.
pub(crate) fn escape(text: &str) -> String {
    text.replace('%', "%25").replace('/', "%2F")
}

macro_rules! text_like {
    ($($name:ident),*) => {$(
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
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    )*};
}
text_like!(Domain, PathPrefix);

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.uuid)
    }
}

impl fmt::Debug for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for RouteId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl TryFrom<String> for RouteId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<RouteId> for String {
    fn from(id: RouteId) -> Self {
        id.to_string()
    }
}
