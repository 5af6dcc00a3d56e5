//! Resources that only some hosts have, by name: GPUs, licences, devices, exclusive volumes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Whole amounts of named resources, such as `gpu: 4`.
///
/// A resource of which a host has one is exclusive: one job at a time has it. A host that does not name a resource has
/// none of it. Amounts of zero are the same as no entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Named(BTreeMap<String, u64>);

impl Named {
    /// How much there is of `name`; 0 if it is not there.
    #[must_use]
    pub fn amount(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Sets an amount; zero removes it.
    pub fn set(&mut self, name: impl Into<String>, amount: u64) {
        let name = name.into();
        if amount == 0 {
            self.0.remove(&name);
        } else {
            self.0.insert(name, amount);
        }
    }

    /// The resources and their amounts, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, amount)| (name.as_str(), *amount))
    }

    /// Is there nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.values().all(|amount| *amount == 0)
    }

    /// Does `need` fit beside `taken` into `self`?
    #[must_use]
    pub fn fits(&self, taken: &Self, need: &Self) -> bool {
        need.iter().all(|(name, amount)| {
            amount == 0
                || taken
                    .amount(name)
                    .checked_add(amount)
                    .is_some_and(|sum| sum <= self.amount(name))
        })
    }

    /// What `need` lacks in `self` beside `taken`, in a sentence fragment; `None` if it fits.
    #[must_use]
    pub fn shortage(&self, taken: &Self, need: &Self) -> Option<String> {
        let lacks: Vec<String> = need
            .iter()
            .filter_map(|(name, amount)| {
                let free = self.amount(name).saturating_sub(taken.amount(name));
                (amount > free).then(|| format!("{amount} of {name}, {free} is free"))
            })
            .collect();
        (!lacks.is_empty()).then(|| format!("needs {}", lacks.join(" and ")))
    }

    /// Adds `other`, as far as numbers go.
    pub fn add(&mut self, other: &Self) {
        for (name, amount) in other.iter().filter(|(_, amount)| *amount > 0) {
            let sum = self.0.entry(name.to_owned()).or_default();
            *sum = sum.saturating_add(amount);
        }
    }

    /// Takes `other` away; nothing goes below zero.
    pub fn sub(&mut self, other: &Self) {
        for (name, amount) in other.iter() {
            self.set(name, self.amount(name).saturating_sub(amount));
        }
    }
}

impl<N: Into<String>> FromIterator<(N, u64)> for Named {
    fn from_iter<I: IntoIterator<Item = (N, u64)>>(amounts: I) -> Self {
        let mut named = Self::default();
        for (name, amount) in amounts {
            named.set(name, amount);
        }
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_of_which_there_is_one_is_exclusive() {
        let host = Named::from_iter([("gpu", 2), ("volume/db", 1)]);
        let need = Named::from_iter([("volume/db", 1)]);
        let mut taken = Named::default();
        assert!(host.fits(&taken, &need));
        taken.add(&need);
        assert!(!host.fits(&taken, &need));
        assert_eq!(
            host.shortage(&taken, &need).unwrap(),
            "needs 1 of volume/db, 0 is free"
        );
        taken.sub(&need);
        assert_eq!(taken, Named::default());
    }

    #[test]
    fn amounts_that_overflow_do_not_fit() {
        let host = Named::from_iter([("gpu", u64::MAX)]);
        let taken = Named::from_iter([("gpu", 2)]);
        let need = Named::from_iter([("gpu", u64::MAX - 1)]);
        assert!(!host.fits(&taken, &need));
    }
}
