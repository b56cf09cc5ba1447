//! Which bootstrap tokens were made for which join: `tickets/<order>` in the data directory, ids only.
//!
//! Entry point: [`Tickets`]. A host keeps the order, and so the token, that it was given first, and goes on with it while
//! nobody is connected: a token is withdrawn once the end of its order was seen, or when a later attempt begins. What
//! is forgotten in between expires by itself. The secret part is never written down.

use super::durable;
use super::ssh::transient;
use crate::sync::chain;
use crate::sync::ports::{Fault, Joiner, Ticket};
use evenkeel_engine::ids::{JobId, NodeName};
use evenkeel_node::protocol::OrderId;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A bootstrap token outlives the join's own limit by the time that login and pre-install may take (15 min).
const MARGIN: Duration = Duration::from_mins(20);

/// See the module.
pub(super) struct Tickets {
    dir: PathBuf,
    /// Made by this process: a call that is repeated while a host is away makes no token each time.
    here: Mutex<BTreeMap<OrderId, (Arc<Ticket>, Instant)>>,
}

impl Tickets {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, here: Mutex::default() }
    }

    fn here(&self) -> MutexGuard<'_, BTreeMap<OrderId, (Arc<Ticket>, Instant)>> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self, source: io::Error) -> Fault {
        let dir = self.dir.display();
        transient(format!("what is kept of bootstrap tokens in {dir} cannot be used"), source)
    }

    /// Tokens of an order that are not withdrawn; `None` if none was ever made.
    async fn ids(&self, id: &OrderId) -> Result<Option<Vec<String>>, Fault> {
        let read = durable::read(&self.dir.join(id.to_string())).await;
        read.map_err(|source| self.broken(source))
    }

    async fn keep(&self, id: &OrderId, ids: &[String]) -> Result<(), Fault> {
        let written = durable::write(&self.dir.join(id.to_string()), &ids).await;
        written.map_err(|source| self.broken(source))
    }

    /// Whether a token was ever made for this order: the host may have it, and may be joining or have joined.
    pub(super) async fn any(&self, id: &OrderId) -> Result<bool, Fault> {
        Ok(self.ids(id).await?.is_some())
    }

    /// A token for a join that may take `limit`: the one that was made before, unless it could expire under it.
    pub(super) async fn of(
        &self,
        id: &OrderId,
        joiner: &dyn Joiner,
        node: &NodeName,
        limit: Duration,
    ) -> Result<Arc<Ticket>, Fault> {
        let made = self.here().get(id).cloned();
        if let Some((ticket, made)) = made
            && made.elapsed() < MARGIN
        {
            return Ok(ticket);
        }
        let ticket = Arc::new(joiner.ticket(node, limit + MARGIN).await?);
        let mut ids = self.ids(id).await?.unwrap_or_default();
        ids.push(ticket.token_id.clone());
        self.keep(id, &ids).await?;
        self.here().insert(id.clone(), (Arc::clone(&ticket), Instant::now()));
        Ok(ticket)
    }

    /// The order has ended: withdraws its tokens. One that cannot be withdrawn now is left to expire.
    pub(super) async fn ended(&self, id: &OrderId, joiner: &dyn Joiner) {
        if let Err(fault) = self.withdraw(id, joiner).await {
            let reason = chain(&fault);
            tracing::warn!(order = %id, reason, "a bootstrap token was left to expire by itself");
        }
    }

    /// An attempt begins: earlier ones of the same job on the same node are over, however they ended.
    pub(super) async fn begun(&self, id: &OrderId, joiner: &dyn Joiner) {
        for attempt in 1..id.attempt() {
            if let Ok(earlier) = OrderId::new(id.job(), id.node(), attempt, id.stage()) {
                self.ended(&earlier, joiner).await;
            }
        }
    }

    async fn withdraw(&self, id: &OrderId, joiner: &dyn Joiner) -> Result<(), Fault> {
        self.here().remove(id);
        let ids = self.ids(id).await?.unwrap_or_default();
        for token in &ids {
            joiner.withdraw(token).await?;
        }
        if ids.is_empty() { Ok(()) } else { self.keep(id, &[]).await }
    }

    /// Removes what is kept of a job.
    pub(super) async fn forget(&self, job: &JobId) -> io::Result<()> {
        self.here().retain(|id, _| id.job() != job.as_str());
        durable::forget(&self.dir, job).await
    }
}
