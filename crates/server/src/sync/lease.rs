//! The lease that makes one actor the only one of its cluster. Its revision is the epoch that fences all others.

use super::actor::{ActorError, Setup};
use crate::records::keys;
use crate::store::{LeaseId, Revision, Txn};
use std::time::Duration;

/// The lease on a cluster. A dead replica is replaced within this time.
const LEASE_TTL: Duration = Duration::from_secs(15);
/// Renewed three times within its life.
pub(super) const LEASE_RENEW: Duration = Duration::from_secs(5);

/// Waits until the lease is ours; returns it and the epoch.
pub(super) async fn take_lease(setup: &Setup) -> Result<(LeaseId, Revision), ActorError> {
    let key = keys::leader(&setup.project, &setup.cluster);
    let store = &setup.store;
    if setup.exclusive {
        store.txn(Txn::new().delete(&key)).await.map_err(ActorError::Store)?;
    }
    loop {
        let lease = store.lease_grant(LEASE_TTL).await.map_err(ActorError::Store)?;
        let txn = Txn::new().when_absent(&key).put_leased(&key, b"actor".to_vec(), lease);
        let taken = store.txn(txn).await.map_err(ActorError::Store)?;
        if taken.succeeded {
            return Ok((lease, taken.revision));
        }
        store.lease_revoke(lease).await.map_err(ActorError::Store)?;
        tokio::time::sleep(LEASE_RENEW).await;
    }
}
