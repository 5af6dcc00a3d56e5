//! A shared secret that neither logs nor timing give away.

use std::{fmt, sync::Arc};

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A key or token: compared in constant time, wiped when the last copy goes, never printed.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    /// Takes a secret. White space around it (the newline at the end of a token file) is not part of it.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        let secret = Zeroizing::new(secret.into());
        Self(Arc::new(Zeroizing::new(secret.trim().to_owned())))
    }

    /// The secret itself, for sending it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Is there nothing in it? An empty secret matches nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Are both the same? Takes the same time wherever they differ; an empty one equals nothing.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        !self.is_empty() && self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed_and_an_empty_one_matches_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
        assert!(Secret::new("a\n").matches(&Secret::new("a")));
        assert!(!Secret::new("a").matches(&Secret::new("b")));
        assert!(!Secret::new("").matches(&Secret::new("")));
    }
}
