//! Claims: leased keys that only one holder can have.

use std::time::Duration;

use flynn_discovery::backend::{Compare, Condition, Key, LeaseId, Op};

use super::{Claim, DiscoveryStore, key};
use crate::{Error, Result};

impl DiscoveryStore {
    pub(super) async fn take_claim(
        &self,
        name: &str,
        holder: &str,
        ttl: Duration,
    ) -> Result<Option<Claim>> {
        let key = claim_key(name)?;
        if self.backend.get(&key).await?.is_some() {
            return Ok(None);
        }
        let lease = self.backend.grant(ttl).await?;
        let put = Op::Put {
            key: key.clone(),
            value: holder.to_owned().into(),
            lease: Some(lease),
        };
        let absent = Compare {
            key,
            condition: Condition::Absent,
        };
        match self.backend.commit(vec![absent], vec![put]).await {
            Ok(revision) => Ok(Some(Claim {
                name: name.to_owned(),
                token: revision.0,
                lease: lease.0,
            })),
            Err(error) => {
                // Where the answer was lost the key may be there: its lease ends it.
                self.backend.revoke(lease).await?;
                match error {
                    flynn_discovery::Error::Conflict { .. } => Ok(None),
                    error => Err(error.into()),
                }
            }
        }
    }

    pub(super) async fn renew_claim(&self, claim: &Claim) -> Result<()> {
        match self.backend.keep_alive(LeaseId(claim.lease)).await {
            Err(flynn_discovery::Error::LeaseLost { .. }) => Err(Error::ClaimLost {
                name: claim.name.clone(),
            }),
            other => Ok(other?),
        }
    }

    pub(super) async fn drop_claim(&self, claim: &Claim) -> Result<()> {
        Ok(self.backend.revoke(LeaseId(claim.lease)).await?)
    }
}

pub(super) fn claim_key(name: &str) -> Result<Key> {
    key(format_args!("claims/{name}"))
}
