//! An artifact: a file tree that jobs are made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Time, nullable, time};

/// A file tree that jobs are made of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Artifact {
    /// Its identity.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub id: String,
    /// Its format: [`Artifact::SLUG`] or [`Artifact::FLYNN`]. Existing clients call it `type`.
    #[serde(
        rename = "type",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub kind: String,
    /// Where to get it: `blob:<path>` (the cluster's blob store), `http://…` or `file:///…`.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub uri: String,
    /// Free-form facts.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub meta: BTreeMap<String, String>,
    /// The image manifest, for [`Artifact::FLYNN`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Value>,
    /// Digests of the file by algorithm; `sha256` (hex) is checked by hosts.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub hashes: BTreeMap<String, String>,
    /// The size of the file in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// How to get a layer of the image: RFC 6570 with `{id}`.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub layer_url_template: String,
    /// When it was created.
    #[serde(
        deserialize_with = "time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub created_at: Option<Time>,
}

impl Artifact {
    /// A gzipped tar, unpacked into the job's directory.
    pub const SLUG: &str = "file";
    /// An image of layers under a manifest.
    pub const FLYNN: &str = "flynn";

    /// A gzipped tar to register.
    #[must_use]
    pub fn slug(uri: impl Into<String>, sha256: impl Into<String>, size: u64) -> Self {
        Self {
            kind: Self::SLUG.to_owned(),
            uri: uri.into(),
            hashes: [("sha256".to_owned(), sha256.into())].into(),
            size: Some(size),
            ..Self::default()
        }
    }
}
