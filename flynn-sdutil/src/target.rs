//! What to register: `name:port`, and attributes `key=value`.

use std::str::FromStr;

use flynn_discovery::ServiceName;

use crate::{Error, Result};

/// A service and the port it is served on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Target {
    /// The service.
    pub service: ServiceName,
    /// The port.
    pub port: u16,
}

impl FromStr for Target {
    type Err = Error;

    /// Parses `name:port`; the last colon splits.
    fn from_str(text: &str) -> Result<Self> {
        let usage = |why: &str| Error::Usage {
            what: format!("{text:?}"),
            why: why.to_owned(),
        };
        let (service, port) = text
            .rsplit_once(':')
            .ok_or_else(|| usage("name the service and its port, like www:8080"))?;
        let port =
            port.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
                usage("what follows the last colon must be a port from 1 to 65535")
            })?;
        Ok(Self {
            service: ServiceName::parse(service)?,
            port,
        })
    }
}

/// Parses an attribute, `key=value`.
///
/// # Errors
///
/// [`Error::Usage`] without a key or an equals sign.
pub fn attribute(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Error::Usage {
            what: format!("attribute {text:?}"),
            why: "write it as key=value".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_split_at_the_last_colon() {
        let target: Target = "www:8080".parse().unwrap();
        assert_eq!((target.service.as_str(), target.port), ("www", 8080));
        for bad in ["www", ":80", "www:", "www:0", "www:65536", "www:http", ""] {
            assert!(bad.parse::<Target>().is_err(), "{bad:?}");
        }
        // The name is "a:b" here, which the error says is not one.
        let error = "a:b:80".parse::<Target>().unwrap_err().to_string();
        assert!(error.contains("\"a:b\""), "{error}");
    }

    #[test]
    fn attributes_are_pairs() {
        assert_eq!(
            attribute("a=b=c").unwrap(),
            ("a".to_owned(), "b=c".to_owned())
        );
        assert_eq!(attribute("a=").unwrap(), ("a".to_owned(), String::new()));
        assert!(attribute("a").is_err() && attribute("=b").is_err());
    }
}
