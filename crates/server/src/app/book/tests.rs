#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use crate::records::AddressRule;
use crate::store::memory::MemoryStore;
use crate::sync::ports::Stage;
use std::collections::BTreeSet;

const PROJECT: &str = "p1";

fn order(epoch: u64, machine_id: &str) -> HostOrder {
    let target = Target {
        node_id: "n1".into(),
        node: "worker-1".into(),
        internal_ip: None,
        machine_id: Some(machine_id.into()),
        system_uuid: None,
    };
    HostOrder { job: "j1".into(), target, attempt: 1, stage: Stage::Reset, epoch }
}

fn now(machine_id: &str, replaces: &str) -> Reinstalled {
    Reinstalled {
        machine_id: machine_id.into(),
        system_uuid: None,
        replaces: BTreeSet::from([replaces.to_owned()]),
    }
}

/// A book over a store that has one job of one cluster, and the epoch of its actor.
async fn book(dir: &std::path::Path) -> (StoreBook, u64) {
    let secrets = KeyFile::open(&dir.join("key"), &dir.join("data"), true).unwrap();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let cluster = ClusterId::new("c1");
    let seal = |place: &SecretContext<'_>| secrets.seal(place, b"secret").unwrap();
    let record = ClusterRecord {
        id: cluster.clone(),
        name: "lab".into(),
        version: String::new(),
        server: String::new(),
        kubeconfig: seal(&vault::kubeconfig(PROJECT, &cluster)),
        machines: Some(MachineSettings {
            user: "root".into(),
            port: 22,
            private_key: seal(&vault::private_key(PROJECT, &cluster)),
            public_key: String::new(),
            sudo: false,
            address: AddressRule::Name,
            overrides: BTreeMap::new(),
            host_keys: BTreeMap::new(),
            host_cas: Vec::new(),
        }),
        recipe: None,
        policy: Default::default(),
        created_ms: 0,
    };
    let place = PlaceRecord { project: PROJECT.to_owned(), cluster: cluster.clone() };
    let txn = Txn::new()
        .put(keys::job_place(&"j1".into()), records::encode(&place))
        .put(keys::cluster(PROJECT, &cluster), records::encode(&record));
    store.txn(txn).await.unwrap();
    let leader = keys::leader(PROJECT, &cluster);
    store.txn(Txn::new().put(&leader, b"me".to_vec())).await.unwrap();
    let epoch = store.get(&leader, None).await.unwrap().unwrap().create_revision;
    let agents = crate::agents::Exchange::default();
    let options = kube::Options::default();
    let book = StoreBook { store, secrets: Arc::new(secrets), agents, options };
    (book, epoch)
}

#[tokio::test]
async fn a_new_key_is_pinned_by_the_acting_controller_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (book, epoch) = book(dir.path()).await;
    let at = keys::cluster(PROJECT, &ClusterId::new("c1"));
    let stale = book.pin(&order(epoch - 1, "m0"), "ssh-ed25519 A", None).await;
    assert!(matches!(stale, Err(Fault::Transient { .. })), "{stale:?}");
    let before: ClusterRecord = book.read(&at).await.unwrap();
    assert!(before.machines.unwrap().host_keys.is_empty());
    book.pin(&order(epoch, "m0"), "ssh-ed25519 A", Some("10.0.0.7:2222")).await.unwrap();
    let after: ClusterRecord = book.read(&at).await.unwrap();
    let machines = after.machines.unwrap();
    assert_eq!(machines.host_keys["worker-1"], "ssh-ed25519 A");
    assert_eq!(machines.overrides["worker-1"], "10.0.0.7:2222");
}

#[tokio::test]
async fn a_machine_that_came_back_stands_for_all_that_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (book, epoch) = book(dir.path()).await;
    let at = keys::reinstalled(PROJECT, &ClusterId::new("c1"), &"n1".into());
    book.came_back(&order(epoch, "m0"), &now("m1", "m0")).await.unwrap();
    book.came_back(&order(epoch, "m1"), &now("m2", "m1")).await.unwrap();
    let kept: Reinstalled = book.read(&at).await.unwrap();
    assert_eq!(kept.machine_id, "m2");
    assert_eq!(kept.replaces, BTreeSet::from(["m0".to_owned(), "m1".to_owned()]));
}
