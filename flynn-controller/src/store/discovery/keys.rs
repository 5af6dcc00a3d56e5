//! SSH keys.

use flynn_discovery::backend::Condition;

use super::{DiscoveryStore, NewEvent, Outcome, Txn, key, txn::pause};
use crate::{
    Error, Result,
    model::{EventKind, Key},
};

impl DiscoveryStore {
    pub(super) async fn write_key(&self, ssh: Key) -> Result<Key> {
        let path = key(format_args!("keys/{}", ssh.id))?;
        for attempt in 0..Self::MAX_ATTEMPTS {
            if let Some(existing) = self.read::<Key>(&path).await? {
                return Ok(existing.value);
            }
            let mut txn = Txn::default();
            txn.expect(&path, Condition::Absent)
                .put(path.clone(), &ssh)
                .event(NewEvent::new(EventKind::Key, "", &ssh.id, &ssh));
            if let Outcome::Done(_) = self.commit(&txn).await? {
                return Ok(ssh);
            }
            pause(attempt).await;
        }
        Err(Error::Contended {
            what: format!("key {}", ssh.id),
        })
    }

    pub(super) async fn remove_key(&self, id: &str) -> Result<()> {
        let missing = || Error::missing(format_args!("key {id}"));
        let path = key(format_args!("keys/{id}")).map_err(|_| missing())?;
        let stored = self.read::<Key>(&path).await?.ok_or_else(missing)?;
        let mut txn = Txn::default();
        txn.unchanged(&stored).delete(path).event(NewEvent::new(
            EventKind::KeyDeletion,
            "",
            id,
            &stored.value,
        ));
        match self.commit(&txn).await? {
            Outcome::Done(_) => Ok(()),
            // A key is written once and removed once.
            Outcome::Stale(_) => Err(missing()),
        }
    }
}
