//! `--check`: what must succeed before an instance is registered, and while it is.

use std::{str::FromStr, sync::Arc};

use flynn_discovery::health::{ExecCheck, HealthCheck, HttpCheck, TcpCheck};

use crate::{Error, Result};

/// A kind of check, still without the address it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckSpec {
    /// `tcp`: the port accepts connections.
    Tcp,
    /// `http:/path`: the path answers with status 200.
    Http(String),
    /// `exec:command`: the shell command exits with zero.
    Exec(String),
}

impl FromStr for CheckSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            None if text == "tcp" => Ok(Self::Tcp),
            None if text == "http" => Ok(Self::Http("/".to_owned())),
            Some(("http", path)) if path.starts_with('/') => Ok(Self::Http(path.to_owned())),
            Some(("exec", command)) if !command.is_empty() => Ok(Self::Exec(command.to_owned())),
            _ => Err(Error::Usage {
                what: format!("check {text:?}"),
                why: "write tcp, http:/path or exec:command".to_owned(),
            }),
        }
    }
}

impl CheckSpec {
    /// This check of the server at `addr`.
    ///
    /// # Errors
    ///
    /// [`Error::Discovery`] when the path cannot be part of a request.
    pub fn of(&self, addr: &str) -> Result<Arc<dyn HealthCheck>> {
        Ok(match self {
            Self::Tcp => Arc::new(TcpCheck::new(addr)),
            Self::Http(path) => Arc::new(HttpCheck::new(addr, path.as_str())?),
            Self::Exec(command) => Arc::new(ExecCheck::new("/bin/sh").with_args(["-c", command])),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_named_by_kind() {
        assert_eq!("tcp".parse::<CheckSpec>().unwrap(), CheckSpec::Tcp);
        let http: CheckSpec = "http:/health?x=1".parse().unwrap();
        assert_eq!(http, CheckSpec::Http("/health?x=1".to_owned()));
        let exec: CheckSpec = "exec:test -e a:b".parse().unwrap();
        assert_eq!(exec, CheckSpec::Exec("test -e a:b".to_owned()));
        for bad in ["", "udp", "http:health", "exec:", "tcp:1"] {
            assert!(bad.parse::<CheckSpec>().is_err(), "{bad:?}");
        }
    }
}
