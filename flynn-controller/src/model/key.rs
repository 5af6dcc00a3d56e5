//! SSH keys that may push.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Time, nullable, time};
use crate::{Error, Result};

/// An SSH public key that may push.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Key {
    /// The hex SHA-256 fingerprint of the key.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub id: String,
    /// The key as in `authorized_keys`: type and base64, without options and comment.
    #[serde(deserialize_with = "nullable")]
    pub key: String,
    /// Whose it is, for people.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub comment: String,
    /// When it was added.
    #[serde(
        deserialize_with = "time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub created_at: Option<Time>,
}

impl Key {
    /// Reads one line of an `authorized_keys` or `.pub` file.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what such a line looks like.
    pub fn parse(line: &str) -> Result<Self> {
        let bad = || {
            Error::invalid(
                "key",
                "must be one line of a .pub file, such as \"ssh-ed25519 AAAA… you@example\"",
            )
        };
        let mut words = line.split_whitespace();
        let (Some(kind), Some(data)) = (words.next(), words.next()) else {
            return Err(bad());
        };
        let blob = STANDARD.decode(data).map_err(|_| bad())?;
        // The blob repeats its type as a string: four bytes of length, then the name.
        let (length, rest) = blob.split_first_chunk::<4>().ok_or_else(bad)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| bad())?;
        if rest.get(..length) != Some(kind.as_bytes()) || rest.len() <= length {
            return Err(bad());
        }
        Ok(Self {
            id: hex::encode(Sha256::digest(&blob)),
            key: format!("{kind} {data}"),
            comment: words.collect::<Vec<_>>().join(" "),
            created_at: None,
        })
    }

    /// The fingerprint as `ssh-keygen -l` shows it: `SHA256:` and base64.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let digest = hex::decode(&self.id).unwrap_or_default();
        format!(
            "SHA256:{}",
            base64::engine::general_purpose::STANDARD_NO_PAD.encode(digest)
        )
    }

    /// The id that `text` names: the id itself, or the fingerprint in `ssh-keygen`'s or the URL-safe spelling.
    #[must_use]
    pub fn id_from(text: &str) -> Option<String> {
        let text = text.strip_prefix("SHA256:").unwrap_or(text);
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Some(text.to_ascii_lowercase());
        }
        let standard = text
            .trim_end_matches('=')
            .replace('-', "+")
            .replace('_', "/");
        let digest = base64::engine::general_purpose::STANDARD_NO_PAD
            .decode(standard)
            .ok()?;
        (digest.len() == 32).then(|| hex::encode(digest))
    }
}
