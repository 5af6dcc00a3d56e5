//! What can go wrong, named by what the caller can do about it.

/// The result of an operation of the controller.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation of the controller failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The thing that was named does not exist.
    #[error("{what} does not exist")]
    NotFound {
        /// What was looked for, for example `app blog`.
        what: String,
    },
    /// The thing to be created is there already.
    #[error("{what} already exists")]
    Exists {
        /// What was to be created.
        what: String,
    },
    /// Another route takes this traffic already.
    #[error("Duplicate route")]
    DuplicateRoute {
        /// That route.
        route: Box<flynn_router::Route>,
    },
    /// It cannot be done in the present state of things; wait, or change that first.
    #[error("{why}")]
    Conflict {
        /// What stands in the way.
        why: String,
    },
    /// The caller's input is not acceptable; trying again cannot help.
    #[error("{}{why}", field.as_ref().map(|f| format!("{f} ")).unwrap_or_default())]
    Invalid {
        /// The field that is wrong, if it is about one.
        field: Option<&'static str>,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// Something else moved at the same time, again and again; try again.
    #[error("{what} is changed by too many writers at once")]
    Contended {
        /// What was to be changed.
        what: String,
    },
    /// The claim on a piece of work was lost to another controller; leave the work to it.
    #[error("the claim on {name} was lost")]
    ClaimLost {
        /// What was claimed.
        name: String,
    },
    /// A part of the cluster that this needs cannot help now.
    #[error("{why}")]
    Unavailable {
        /// Which one, and why.
        why: String,
    },
    /// A subscriber did not keep up and was dropped.
    #[error("event stream buffer overflow")]
    Lagged,
    /// What is stored cannot be read; only an operator can judge.
    #[error("the stored {what} is damaged")]
    Damaged {
        /// Which record.
        what: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The store failed.
    #[error("the controller's store failed")]
    Store(#[from] flynn_discovery::Error),
    /// The routes could not be read or written.
    #[error("the routes' store failed")]
    Routes(#[source] flynn_router::Error),
    /// The cell failed.
    #[error("the cell failed")]
    Cluster(#[from] flynn_sched::Error),
}

impl Error {
    /// An [`Error::Invalid`] about a field.
    pub(crate) fn invalid(field: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid {
            field: Some(field),
            why: why.into(),
        }
    }

    /// An [`Error::Invalid`] about the request as a whole.
    pub(crate) fn refused(why: impl Into<String>) -> Self {
        Self::Invalid {
            field: None,
            why: why.into(),
        }
    }

    /// An [`Error::NotFound`].
    pub(crate) fn missing(what: impl std::fmt::Display) -> Self {
        Self::NotFound {
            what: what.to_string(),
        }
    }

    /// May the caller try again as it is?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Contended { .. } | Self::Unavailable { .. } | Self::Lagged => true,
            Self::Store(error) => {
                error.is_transient() || matches!(error, flynn_discovery::Error::Unknown { .. })
            }
            Self::Cluster(error) => error.is_transient(),
            Self::Routes(error) => error.is_transient(),
            Self::NotFound { .. }
            | Self::DuplicateRoute { .. }
            | Self::Exists { .. }
            | Self::Conflict { .. }
            | Self::Invalid { .. }
            | Self::ClaimLost { .. }
            | Self::Damaged { .. } => false,
        }
    }
}

impl From<flynn_router::Error> for Error {
    fn from(error: flynn_router::Error) -> Self {
        match error {
            flynn_router::Error::Duplicate { route } => Self::DuplicateRoute { route },
            flynn_router::Error::Conflict { id } => Self::Contended {
                what: format!("route {id}"),
            },
            flynn_router::Error::Invalid { what, why } => {
                Self::refused(format!("Invalid route: {what}: {why}"))
            }
            other => Self::Routes(other),
        }
    }
}
