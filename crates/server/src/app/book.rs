//! What the machines module needs to know of a job and a machine, from the store.

use crate::agents::Exchange;
use crate::http::vault::{self, TemplateField, TemplateOwner};
use crate::kube;
use crate::machines::{AgentAccess, Book, Brief, ClearLogin, ClearTemplate, Reach, SshAccess};
use crate::records::{
    self, AgentRecord, ClusterRecord, JobRecord, MachineSettings, PlaceRecord, Recipe, Reinstalled,
    keys,
};
use crate::secrets::{KeyFile, Sealed, SecretContext};
use crate::store::{Store, StoreError, Txn};
use crate::sync::chain;
use crate::sync::ports::{Fault, HostOrder, Joiner, Target};
use async_trait::async_trait;
use evenkeel_engine::ids::{ClusterId, JobId};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How often it is done again over a record that changed meanwhile.
const TRIES: usize = 8;

/// See the module.
pub struct StoreBook {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Opens secrets.
    pub secrets: Arc<KeyFile>,
    /// Where calls wait for agents.
    pub agents: Exchange,
    /// How API servers may be reached.
    pub options: kube::Options,
}

#[async_trait]
impl Book for StoreBook {
    async fn brief(&self, job: &JobId, target: &Target) -> Result<Brief, Fault> {
        let (project, cluster_id) = self.whereabouts(job).await?;
        let record: JobRecord = self.read(&keys::job(&project, &cluster_id, job)).await?;
        let cluster: ClusterRecord = self.read(&keys::cluster(&project, &cluster_id)).await?;
        let agent = self.agent(&project, &cluster, target).await?;
        let reach = match (agent, &cluster.machines) {
            (Some(agent), _) => Some(Reach::Agent(agent)),
            (None, Some(settings)) => {
                Some(Reach::Ssh(self.ssh(&project, &cluster_id, settings, target)?))
            }
            (None, None) => None,
        };
        let template = self.template(&project, job, &record)?;
        let joiner = match &record.recipe {
            Recipe::Kubeadm(_) => Some(self.joiner(&project, &cluster).await?),
            Recipe::Script { .. } | Recipe::Command { .. } | Recipe::None => None,
        };
        let leader = keys::leader(&project, &cluster_id);
        let leader =
            self.store.get(&leader, None).await.map_err(|e| Fault::transient(chain(&e)))?;
        let epoch = leader.map(|kv| kv.create_revision);
        let facts_env = BTreeMap::from([
            ("EVENKEEL_PROJECT".to_owned(), project.clone()),
            ("EVENKEEL_CLUSTER".to_owned(), cluster_id.to_string()),
            ("EVENKEEL_CLUSTER_NAME".to_owned(), cluster.name),
            ("EVENKEEL_POOL".to_owned(), record.spec.pool.to_string()),
        ]);
        Ok(Brief {
            recipe: self.recipe(&project, &cluster_id, record.recipe)?,
            reach,
            template,
            joiner,
            epoch,
            reinstalled: self
                .find(&keys::reinstalled(&project, &cluster_id, &target.node_id))
                .await?,
            facts_env,
        })
    }

    async fn pin(&self, order: &HostOrder, key: &str, address: Option<&str>) -> Result<(), Fault> {
        let (project, cluster) = self.whereabouts(&order.job).await?;
        let at = keys::cluster(&project, &cluster);
        let node = order.target.node.as_str();
        self.change(order, &project, &cluster, &at, |old: Option<ClusterRecord>| {
            let mut record = old.ok_or_else(|| missing(&at))?;
            let Some(machines) = &mut record.machines else {
                return Err(Fault::permanent(format!(
                    "node {node}: the cluster has no SSH settings to pin a host key in; set them with \
                     `evenkeel cluster set-machines`"
                )));
            };
            machines.host_keys.insert(node.to_owned(), key.to_owned());
            if let Some(address) = address {
                machines.overrides.insert(node.to_owned(), address.to_owned());
            }
            Ok(record)
        })
        .await
    }

    async fn came_back(&self, order: &HostOrder, now: &Reinstalled) -> Result<(), Fault> {
        let (project, cluster) = self.whereabouts(&order.job).await?;
        let at = keys::reinstalled(&project, &cluster, &order.target.node_id);
        self.change(order, &project, &cluster, &at, |old: Option<Reinstalled>| {
            let mut record = now.clone();
            if let Some(old) = old {
                // The node's status may lag behind by more than one of them.
                record.replaces.extend(old.replaces);
                record.replaces.insert(old.machine_id);
            }
            record.replaces.remove(&record.machine_id);
            Ok(record)
        })
        .await
    }
}

fn missing(key: &str) -> Fault {
    Fault::permanent(format!("the record {key} is not there"))
}

impl StoreBook {
    /// Project and cluster of a job.
    async fn whereabouts(&self, job: &JobId) -> Result<(String, ClusterId), Fault> {
        let place: PlaceRecord = self.read(&keys::job_place(job)).await?;
        Ok((place.project, place.cluster))
    }

    async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<T, Fault> {
        self.find(key).await?.ok_or_else(|| missing(key))
    }

    async fn find<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Fault> {
        let kv = self.store.get(key, None).await.map_err(|e| Fault::transient(chain(&e)))?;
        kv.map(|kv| records::decode(key, &kv.value).map_err(|e| Fault::permanent(chain(&e))))
            .transpose()
    }

    /// Changes one record on behalf of an order, as long as the actor that gave it holds the cluster.
    async fn change<T: DeserializeOwned + Serialize>(
        &self,
        order: &HostOrder,
        project: &str,
        cluster: &ClusterId,
        at: &str,
        change: impl Fn(Option<T>) -> Result<T, Fault>,
    ) -> Result<(), Fault> {
        let lost = |e: StoreError| Fault::transient(chain(&e));
        let leader = keys::leader(project, cluster);
        for _ in 0..TRIES {
            let kv = self.store.get(at, None).await.map_err(lost)?;
            let old = kv.as_ref().map(|kv| records::decode(at, &kv.value)).transpose();
            let new = change(old.map_err(|e| Fault::permanent(chain(&e)))?)?;
            let txn = Txn::new().when_create_revision(&leader, order.epoch);
            let txn = match &kv {
                Some(kv) => txn.when_mod_revision(at, kv.mod_revision),
                None => txn.when_absent(at),
            };
            let txn = txn.put(at, records::encode(&new));
            if self.store.txn(txn).await.map_err(lost)?.succeeded {
                return Ok(());
            }
        }
        Err(Fault::transient(format!(
            "the record {at} is being changed by others, or another controller holds the cluster"
        )))
    }

    fn open(&self, place: &SecretContext<'_>, sealed: &Sealed) -> Result<SecretString, Fault> {
        let bytes = self.secrets.unseal(place, sealed).map_err(|e| Fault::permanent(chain(&e)))?;
        std::str::from_utf8(&bytes)
            .map(SecretString::from)
            .map_err(|_| Fault::permanent("a sealed text is not UTF-8"))
    }

    /// The recipe with its commands in clear.
    fn recipe(&self, project: &str, cluster: &ClusterId, sealed: Recipe) -> Result<Recipe, Fault> {
        let place = vault::recipe(project, cluster);
        sealed.map_commands(|command| {
            let sealed: Sealed = serde_json::from_str(&command)
                .map_err(|_| Fault::permanent("a command of the recipe is not sealed; set it again with `evenkeel cluster set-machines`"))?;
            let clear = self.open(&place, &sealed)?;
            Ok(clear.expose_secret().to_owned())
        })
    }

    async fn joiner(
        &self,
        project: &str,
        cluster: &ClusterRecord,
    ) -> Result<Arc<dyn Joiner>, Fault> {
        let place = vault::kubeconfig(project, &cluster.id);
        let kubeconfig = self.open(&place, &cluster.kubeconfig)?;
        let api = kube::Api::connect(kubeconfig.expose_secret(), &self.options)
            .await
            .map_err(|e| Fault::permanent(chain(&e)))?;
        Ok(Arc::new(api))
    }

    /// A node with an agent is reached through it.
    async fn agent(
        &self,
        project: &str,
        cluster: &ClusterRecord,
        target: &Target,
    ) -> Result<Option<AgentAccess>, Fault> {
        let key = keys::agent(project, &cluster.id, &target.node_id);
        let kv = self.store.get(&key, None).await.map_err(|e| Fault::transient(chain(&e)))?;
        let Some(kv) = kv else { return Ok(None) };
        let record: AgentRecord =
            records::decode(&key, &kv.value).map_err(|e| Fault::permanent(chain(&e)))?;
        Ok(record.agent.map(|agent| AgentAccess {
            exchange: self.agents.clone(),
            agent: agent.id,
            node: target.node.to_string(),
            public_key: cluster.machines.as_ref().map(|ssh| ssh.public_key.clone()),
        }))
    }

    fn ssh(
        &self,
        project: &str,
        cluster: &ClusterId,
        settings: &MachineSettings,
        target: &Target,
    ) -> Result<SshAccess, Fault> {
        let private_key =
            self.open(&vault::private_key(project, cluster), &settings.private_key)?;
        SshAccess::of(settings, target, private_key)
    }

    fn template(
        &self,
        project: &str,
        job: &JobId,
        record: &JobRecord,
    ) -> Result<ClearTemplate, Fault> {
        let place = |field| vault::template(project, TemplateOwner::Job(job), field);
        let text = |sealed: Option<&Sealed>, field| {
            sealed.map(|s| self.open(&place(field), s)).transpose()
        };
        let template = &record.template;
        Ok(ClearTemplate {
            pre_install_b64: text(template.pre_install.as_ref(), TemplateField::PreInstall)?,
            post_install_b64: text(template.post_install.as_ref(), TemplateField::PostInstall)?,
            retain_volumes: template.retain_volumes,
            image: template.image.clone(),
            config: template.config.clone(),
            initialized: template.initialized.iter().map(|a| a.condition.clone()).collect(),
            login: ClearLogin {
                user: template.login.user.clone(),
                password_hash: text(template.login.password.as_ref(), TemplateField::Password)?,
                authorized_keys: record.authorized_keys.clone(),
                remove_password: template.login.remove_password.clone(),
                remove_keys: template.login.remove_keys.clone(),
            },
        })
    }
}

#[cfg(test)]
mod tests;
