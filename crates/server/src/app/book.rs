//! What the machines module needs to know of a job and a machine, from the store.

use crate::http::vault::{self, TemplateField, TemplateOwner};
use crate::kube;
use crate::machines::{Book, Brief, ClearLogin, ClearTemplate, SshAccess};
use crate::records::{
    self, ClusterRecord, JobIndexRecord, JobRecord, MachineSettings, Recipe, keys,
};
use crate::secrets::{KeyFile, Sealed, SecretContext};
use crate::store::Store;
use crate::sync::chain;
use crate::sync::ports::{Fault, Joiner, Target};
use async_trait::async_trait;
use evenkeel_engine::ids::{ClusterId, JobId};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;

/// See the module.
pub struct StoreBook {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Opens secrets.
    pub secrets: Arc<KeyFile>,
    /// How API servers may be reached.
    pub options: kube::Options,
}

#[async_trait]
impl Book for StoreBook {
    async fn brief(&self, job: &JobId, target: &Target) -> Result<Brief, Fault> {
        let (project, cluster_id) = self.whereabouts(job).await?;
        let record: JobRecord = self.read(&keys::job(&project, &cluster_id, job)).await?;
        let cluster: ClusterRecord = self.read(&keys::cluster(&project, &cluster_id)).await?;
        let ssh = match &cluster.machines {
            Some(settings) => Some(self.ssh(&project, &cluster_id, settings, target)?),
            None => None,
        };
        let template = self.template(&project, job, &record)?;
        let joiner = match &record.recipe {
            Recipe::Kubeadm { .. } => Some(self.joiner(&project, &cluster).await?),
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
            ssh,
            template,
            joiner,
            epoch,
            facts_env,
        })
    }
}

impl StoreBook {
    async fn whereabouts(&self, job: &JobId) -> Result<(String, ClusterId), Fault> {
        // The job's id is a UUID of ours, so a look through the projects finds one place at most.
        let projects = self
            .store
            .list("projects/", crate::store::Page::all())
            .await
            .map_err(|e| Fault::transient(chain(&e)))?;
        for kv in projects.items {
            let Some(project) = kv.key.strip_prefix("projects/") else {
                continue;
            };
            let key = keys::job_index(project, job);
            let found =
                self.store.get(&key, None).await.map_err(|e| Fault::transient(chain(&e)))?;
            if let Some(found) = found {
                let index: JobIndexRecord =
                    records::decode(&key, &found.value).map_err(|e| Fault::permanent(chain(&e)))?;
                return Ok((project.to_owned(), index.cluster));
            }
        }
        Err(Fault::permanent(format!("job {job} is not in the store")))
    }

    async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<T, Fault> {
        let kv = self.store.get(key, None).await.map_err(|e| Fault::transient(chain(&e)))?;
        let kv = kv.ok_or_else(|| Fault::permanent(format!("the record {key} is not there")))?;
        records::decode(key, &kv.value).map_err(|e| Fault::permanent(chain(&e)))
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
            kubelet: template.kubelet.clone(),
            login: ClearLogin {
                user: template.login.user.clone(),
                password_hash: text(template.login.password.as_ref(), TemplateField::Password)?,
                authorized_keys: record.authorized_keys.clone(),
                remove_password: template.login.remove_password,
                remove_keys: template.login.remove_keys,
            },
        })
    }
}
