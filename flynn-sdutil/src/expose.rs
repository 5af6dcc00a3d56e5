//! Runs a program that knows the leaders of other services, while they have one.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use flynn_discovery::{Registry, ServiceEvent, ServiceName};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};

use crate::{
    Error, Program, Result, Signals,
    process::Process,
    signals::{comes_from_terminal, is_end},
};

/// A service a program needs, and the variable that tells it where.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dependency {
    /// The service.
    pub service: ServiceName,
    /// The variable that holds its leader's address.
    pub variable: String,
}

impl FromStr for Dependency {
    type Err = Error;

    /// Parses `[ENV:]service`; without a variable, it is named like the service.
    fn from_str(text: &str) -> Result<Self> {
        let (variable, service) = text.split_once(':').unwrap_or((text, text));
        if variable.is_empty() || variable.contains(['=', '\0']) {
            return Err(Error::Usage {
                what: format!("dependency {text:?}"),
                why: "write it as service, or as VARIABLE:service".to_owned(),
            });
        }
        Ok(Self {
            service: ServiceName::parse(service)?,
            variable: variable.to_owned(),
        })
    }
}

/// Runs `program` whenever all `dependencies` have leaders, with their addresses in its environment.
///
/// When one loses its leader the program is stopped (and killed after 5 s), and started again when all have one. Another
/// leader or address alone changes nothing. Gives the exit status to end with when the program ends by itself, or a
/// signal asks us to end.
///
/// # Errors
///
/// [`Error::Spawn`] when the program cannot be started; [`Error::Discovery`] when discovery refuses for good.
pub async fn expose(
    registry: &Registry,
    dependencies: &[Dependency],
    program: &Program,
    signals: &mut Signals,
) -> Result<u8> {
    let mut leaders = Leaders::of(registry, dependencies);
    loop {
        let env = tokio::select! {
            env = leaders.complete() => env?,
            signal = signals.end() => return Ok(128 + u8::try_from(signal as i32).unwrap_or(0)),
        };
        let mut process = program.start(&env)?;
        match supervise(&mut process, &mut leaders, signals).await? {
            Some(status) => return Ok(status),
            None => {
                tracing::warn!(
                    "a service has lost its leader; stopping the program until there is one"
                );
                process.stop(STOP_GRACE).await?;
            }
        }
    }
}

/// Until the program ends (its status) or a leader is missing (`None`).
async fn supervise(
    process: &mut Process,
    leaders: &mut Leaders,
    signals: &mut Signals,
) -> Result<Option<u8>> {
    let mut is_ending = false;
    loop {
        tokio::select! {
            status = process.exited() => return status.map(Some),
            signal = signals.next() => {
                is_ending |= is_end(signal);
                if !comes_from_terminal(signal) {
                    process.signal(signal);
                }
            }
            gone = leaders.incomplete(), if !is_ending => {
                gone?;
                return Ok(None);
            }
        }
    }
}

/// The leaders of some services, as far as they are known.
struct Leaders {
    dependencies: Vec<Dependency>,
    known: BTreeMap<ServiceName, String>,
    changes: BoxStream<'static, (ServiceName, flynn_discovery::Result<ServiceEvent>)>,
}

impl Leaders {
    fn of(registry: &Registry, dependencies: &[Dependency]) -> Self {
        let watches = dependencies.iter().map(|dependency| {
            let service = dependency.service.clone();
            registry
                .watch(&service)
                .map(move |event| (service.clone(), event))
        });
        Self {
            dependencies: dependencies.to_vec(),
            known: BTreeMap::new(),
            changes: stream::select_all(watches).boxed(),
        }
    }

    /// Waits until all have leaders; gives their addresses by variable. Cancel safe.
    async fn complete(&mut self) -> Result<Vec<(String, String)>> {
        loop {
            let env: Option<Vec<_>> = self
                .dependencies
                .iter()
                .map(|dependency| {
                    let addr = self.known.get(&dependency.service)?;
                    Some((dependency.variable.clone(), addr.clone()))
                })
                .collect();
            match env {
                Some(env) => return Ok(env),
                None => self.change().await?,
            }
        }
    }

    /// Waits until one has none. Cancel safe.
    async fn incomplete(&mut self) -> Result<()> {
        while self
            .dependencies
            .iter()
            .all(|dependency| self.known.contains_key(&dependency.service))
        {
            self.change().await?;
        }
        Ok(())
    }

    async fn change(&mut self) -> Result<()> {
        let Some((service, event)) = self.changes.next().await else {
            // Every watch ended in order, which none does while its backend lives.
            return Err(flynn_discovery::Error::Closed {
                backend: "discovery",
            }
            .into());
        };
        if let ServiceEvent::Reset { leader, .. } | ServiceEvent::Leader(leader) = event? {
            match leader {
                Some(leader) => self.known.insert(service, leader.addr),
                None => self.known.remove(&service),
            };
        }
        Ok(())
    }
}

/// How long a program may take to end when it is asked to.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_names_its_variable_or_is_named_like_its_service() {
        let parse = |text: &str| text.parse::<Dependency>();
        let named = parse("REDIS_ADDR:redis").unwrap();
        assert_eq!(
            (&*named.variable, named.service.as_str()),
            ("REDIS_ADDR", "redis")
        );
        assert_eq!(parse("redis").unwrap().variable, "redis");
        for bad in ["", ":redis", "A=B:redis", "A:", "A:B:redis"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
