//! People press buttons: what the handler of the API writes, on the same conditions.

use crate::run::{CLUSTER, PROJECT, Press, Stage};
use evenkeel_engine::check::Fact;
use evenkeel_engine::control::{By, Control, Deed, press};
use evenkeel_engine::ids::{ClusterId, JobId, NodeName};
use evenkeel_engine::phase::Phase;
use evenkeel_engine::sync::{Sync, SyncState, Work};
use evenkeel_server::records::{self, JobRecord, keys};
use evenkeel_server::store::{KeyValue, Page, Store, Txn};

impl Stage {
    /// Presses the next button, if there is a job to press it for.
    pub async fn press(&mut self) {
        let Some((now, button)) = self.presses.pop() else {
            return;
        };
        if let Press::Pause(after) = button {
            let later = self.presses.partition_point(|(at, _)| *at > now + after);
            self.presses.insert(later, (now + after, Press::Resume));
        }
        for job in self.running().await {
            // A commit of the actor in between: read and press again, as the handler does.
            for _ in 0..20 {
                if self.press_one(&job, button).await {
                    break;
                }
            }
            if button != Press::Resume {
                return;
            }
        }
    }

    async fn read<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<(T, u64)> {
        let kv: KeyValue = self.store.get(key, None).await.expect("memory")?;
        Some((records::decode(key, &kv.value).expect("ours"), kv.mod_revision))
    }

    async fn running(&mut self) -> Vec<JobId> {
        let cluster = ClusterId::new(CLUSTER);
        let prefix = keys::actives(PROJECT, &cluster);
        let listing = self.store.list(&prefix, Page::all()).await.expect("memory");
        let job = |kv: &KeyValue| records::decode::<JobId>(&kv.key, &kv.value).expect("ours");
        listing.items.iter().map(job).collect()
    }

    /// False if somebody was faster.
    async fn press_one(&mut self, job: &JobId, button: Press) -> bool {
        let cluster = ClusterId::new(CLUSTER);
        let (stands, control) =
            (keys::job_state(PROJECT, &cluster, job), keys::control(PROJECT, &cluster, job));
        let header = self.read::<JobRecord>(&keys::job(PROJECT, &cluster, job)).await;
        let (Some((header, _)), Some((state, revision))) =
            (header, self.read::<SyncState>(&stands).await)
        else {
            return true;
        };
        let prefix = keys::works(PROJECT, &cluster, job);
        let works = self.store.list(&prefix, Page::all()).await.expect("memory");
        let work = |kv: &KeyValue| records::decode::<Work>(&kv.key, &kv.value).expect("ours");
        let mut sync = Sync::new(header.spec, state, works.items.iter().map(work));
        let known = self.read::<Control>(&control).await;
        sync.control = known.as_ref().map(|(control, _)| control.clone()).unwrap_or_default();
        let Some(deed) = self.deed(&sync, button) else {
            return true;
        };
        let at = self.board.get(&cluster).map_or_else(Default::default, |s| s.now);
        let by = By { who: "sim/person".to_owned(), at };
        let Ok(Some(next)) = press(&sync, &deed, &by) else {
            return true;
        };
        let txn = Txn::new().when_mod_revision(stands, revision);
        let txn = match known {
            Some((_, revision)) => txn.when_mod_revision(&control, revision),
            None => txn.when_absent(&control),
        };
        let done = self.store.txn(txn.put(control, records::encode(&next))).await.expect("memory");
        if done.succeeded {
            self.rig.with(|inner| {
                inner.note(&format!("PRESSED {job} {deed:?}"));
                let word = format!("press {}", deed.word());
                *inner.world.coverage.people.entry(word).or_default() += 1;
                inner.fact(&Fact::Pressed { job: job.clone(), control: Box::new(next) });
            });
        }
        done.succeeded
    }

    fn deed(&mut self, sync: &Sync, button: Press) -> Option<Deed> {
        let mut some = |fits: &dyn Fn(Option<&Phase>) -> bool| {
            let names: Vec<NodeName> = sync
                .spec
                .targets
                .iter()
                .filter(|t| fits(sync.work(&t.name).map(|w| &w.phase)))
                .map(|t| t.name.clone())
                .collect();
            self.pressed.pick(&names).cloned()
        };
        let failed =
            |p: Option<&Phase>| matches!(p, Some(Phase::Failed { .. } | Phase::Waiting { .. }));
        Some(match button {
            Press::Pause(_) => Deed::Pause,
            Press::Resume => Deed::Resume,
            Press::Cancel => Deed::Cancel,
            Press::Retry => Deed::Retry(some(&failed)?),
            Press::Skip => Deed::Skip(some(&failed).or_else(|| some(&|_| true))?),
            Press::Force => {
                let drains = |p: Option<&Phase>| matches!(p, Some(Phase::Draining { .. }));
                Deed::Force(some(&drains).or_else(|| some(&|_| true))?)
            }
        })
    }
}
