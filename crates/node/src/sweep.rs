//! What a host forgets: old orders, builds of the binary that nobody uses, uploads that broke off.
//!
//! Entry point: [`sweep`]; every new order calls it, and the verb `gc`.

use std::fs;
use std::time::{Duration, SystemTime};

use crate::accept::inspect;
use crate::host::Host;
use crate::protocol::{Refusal, Swept};
use crate::store::{Store, at};

/// Orders that are kept: enough to look back on a week of retries, 2 MiB or so each at most.
const ORDERS_KEPT: usize = 20;

/// Uploads that broke off are removed after a day.
const UPLOAD_AGE: Duration = Duration::from_hours(24);

/// Keeps the newest orders and every one that is not over. The fence keeps those that go from
/// ever running again. The caller holds the store's lock.
pub fn sweep(store: &Store, host: &Host) -> Result<Swept, Refusal> {
    let mut over = Vec::new();
    for id in store.orders()? {
        match inspect(store, host, &id)? {
            Some(progress) if !progress.state.is_final() => {}
            Some(progress) => over.push((progress.started_ms, id)),
            None => over.push((None, id)),
        }
    }
    over.sort();
    let gone = over.len().saturating_sub(ORDERS_KEPT);
    let mut swept = Swept { orders: Vec::new(), binaries: Vec::new() };
    for (_, id) in over.into_iter().take(gone) {
        let dir = store.order_dir(&id);
        at("remove", &dir, fs::remove_dir_all(&dir))?;
        store.drop_secrets(&id)?;
        swept.orders.push(id);
    }
    let own = std::env::current_exe().ok().and_then(|path| path.file_name().map(|n| n.to_owned()));
    for entry in fs::read_dir(store.bin_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let text = name.to_string_lossy().into_owned();
        let modified = entry.metadata().and_then(|found| found.modified()).ok();
        let age = modified.and_then(|time| SystemTime::now().duration_since(time).ok());
        let old = age.is_some_and(|age| age > UPLOAD_AGE);
        let other_build = text.starts_with("evenkeel-node-") && Some(&name) != own.as_ref();
        // A day's grace for builds too: during an upgrade two controllers may use two of them.
        if old && (other_build || text.starts_with(".upload.")) {
            at("remove", &entry.path(), fs::remove_file(entry.path()))?;
            swept.binaries.push(text);
        }
    }
    Ok(swept)
}
