//! Events: what happened, in one numbered sequence.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Counts, Release, Time, nullable, time};

/// Something that happened. `Debug` leaves out the data.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number; a later event has a higher one.
    #[serde(default)]
    pub id: i64,
    /// The app it is about.
    #[serde(
        default,
        rename = "app",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub app: String,
    /// What kind of object it is about.
    #[serde(rename = "object_type")]
    pub kind: EventKind,
    /// The object's identity.
    #[serde(default, deserialize_with = "nullable")]
    pub object_id: String,
    /// The object, or what became of it.
    #[serde(default)]
    pub data: Value,
    /// When it happened.
    #[serde(
        default,
        deserialize_with = "time::optional",
        skip_serializing_if = "Option::is_none"
    )]
    pub created_at: Option<Time>,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Event({} {} {} of app {:?})",
            self.id, self.kind, self.object_id, self.app
        )
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What kind of object an event is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum EventKind {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
            /// A kind this version does not know.
            #[serde(other)]
            Other,
        }

        impl EventKind {
            /// The name on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other => "other",
                }
            }

            /// The kind with this name on the wire.
            #[must_use]
            pub fn parse(name: &str) -> Self {
                match name {
                    $($text => Self::$name,)*
                    _ => Self::Other,
                }
            }
        }
    };
}

kinds! {
    /// An app was created or changed; the data is the [`App`](super::App).
    App = "app",
    /// An app was deleted; [`AppDeletionEvent`].
    AppDeletion = "app_deletion",
    /// Another release is current; [`AppRelease`].
    AppRelease = "app_release",
    /// [`Artifact`](super::Artifact).
    Artifact = "artifact",
    /// [`Release`], without the values of its variables.
    Release = "release",
    /// [`ReleaseDeletionEvent`].
    ReleaseDeletion = "release_deletion",
    /// [`DeploymentEvent`](super::DeploymentEvent).
    Deployment = "deployment",
    /// [`Job`](super::Job).
    Job = "job",
    /// [`ScaleRequest`](super::ScaleRequest).
    ScaleRequest = "scale_request",
    /// A scale request that was overtaken; [`ScaleRequest`](super::ScaleRequest).
    ScaleRequestCancelation = "scale_request_cancelation",
    /// [`Scale`], for old clients.
    Scale = "scale",
    /// [`Key`](super::Key).
    Key = "key",
    /// [`Key`](super::Key).
    KeyDeletion = "key_deletion",
    /// A route was created or changed; the data is the route.
    Route = "route",
    /// A route was deleted; the data is the route.
    RouteDeletion = "route_deletion",
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Another release is current.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppRelease {
    /// The one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prev_release: Option<Release>,
    /// The current one.
    pub release: Release,
}

/// Counts changed, as old clients know it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Scale {
    /// The counts before.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "Counts::is_empty"
    )]
    pub prev_processes: Counts,
    /// The counts now.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "Counts::is_empty"
    )]
    pub processes: Counts,
    /// The release.
    #[serde(rename = "release")]
    pub release: String,
}

/// What the deletion of an app removed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AppDeletion {
    /// The app's identity.
    #[serde(rename = "app")]
    pub app: String,
    /// Its routes.
    #[serde(deserialize_with = "nullable")]
    pub deleted_routes: Vec<Value>,
    /// Its resources.
    #[serde(deserialize_with = "nullable")]
    pub deleted_resources: Vec<Value>,
    /// Its releases, without the values of their variables.
    #[serde(deserialize_with = "nullable")]
    pub deleted_releases: Vec<Release>,
}

/// How the deletion of an app ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AppDeletionEvent {
    /// What it removed.
    pub app_deletion: Option<AppDeletion>,
    /// Why it failed; empty if it did not.
    #[serde(deserialize_with = "nullable")]
    pub error: String,
}

/// What the deletion of a release removed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReleaseDeletion {
    /// The app's identity.
    #[serde(rename = "app")]
    pub app: String,
    /// The release's identity.
    #[serde(rename = "release")]
    pub release: String,
    /// Other apps that still use it.
    #[serde(deserialize_with = "nullable")]
    pub remaining_apps: Vec<String>,
    /// Files that were removed with it.
    #[serde(deserialize_with = "nullable")]
    pub deleted_files: Vec<String>,
}

/// How the deletion of a release ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReleaseDeletionEvent {
    /// What it removed.
    pub release_deletion: Option<ReleaseDeletion>,
    /// Why it failed; empty if it did not.
    #[serde(deserialize_with = "nullable")]
    pub error: String,
}
