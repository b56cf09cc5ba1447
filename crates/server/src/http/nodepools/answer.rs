//! A pool as it is answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use evenkeel_api::meta::wire_time;
use evenkeel_api::nodepool::{NodePool, NodePoolMetadata, NodePoolSpec, api_version};
use evenkeel_engine::ids::{ClusterId, JobId, NodeName, PoolId, TemplateRevision};

use super::template::Clear;
use crate::http::auth::Call;
use crate::http::convert::{self, View};
use crate::http::error::ApiError;
use crate::http::load::{self, DEFAULT_POOL};
use crate::http::vault::TemplateOwner;
use crate::http::{ApiState, nodes};
use crate::records::{JobRecord, NodeRecord, PoolRecord, keys};
use crate::sync::board::Snapshot;

/// Label that answers add to `k8sTags`; clients hide keys of this family.
const POOL_LABEL: &str = "cce.cloud.com/cce-nodepool";

/// Everything that answers about the pools of one cluster need, read once.
pub(super) struct Scene {
    project: String,
    nodes: Vec<NodeRecord>,
    active: BTreeMap<PoolId, JobId>,
    /// What the running job brings to `DefaultPool`, which declares nothing itself.
    default_revision: Option<TemplateRevision>,
    in_hand: BTreeMap<NodeName, JobId>,
    snapshot: Option<Arc<Snapshot>>,
    now_ms: i64,
}

impl Scene {
    pub(super) async fn read(
        state: &ApiState,
        call: &Call,
        cluster: &ClusterId,
    ) -> Result<Self, ApiError> {
        let project = call.project();
        let nodes = load::list::<NodeRecord>(&*state.store, &keys::nodes(project, cluster)).await?;
        let actives = load::list::<JobId>(&*state.store, &keys::actives(project, cluster)).await?;
        let pool_of = |key: &str| PoolId::new(key.rsplit('/').next().unwrap_or_default());
        let in_default =
            actives.iter().find(|active| pool_of(&active.key).as_str() == DEFAULT_POOL);
        let default_revision = match in_default {
            None => None,
            Some(active) => {
                let key = keys::job(project, cluster, &active.record);
                let job = load::find::<JobRecord>(&*state.store, key).await?;
                job.map(|job| job.record.spec.revision)
            }
        };
        Ok(Self {
            default_revision,
            project: project.to_owned(),
            nodes: nodes.into_iter().map(|node| node.record).collect(),
            active: actives
                .into_iter()
                .map(|active| (pool_of(&active.key), active.record))
                .collect(),
            in_hand: nodes::show::in_hand(state, project, cluster).await?,
            snapshot: state.board.get(cluster),
            now_ms: (state.clock)(),
        })
    }

    fn view(&self) -> View<'_> {
        View { snapshot: self.snapshot.as_deref(), in_hand: &self.in_hand, now_ms: self.now_ms }
    }

    fn nodes_of(&self, pool: &PoolId) -> Vec<&NodeRecord> {
        self.nodes.iter().filter(|node| node.pool == *pool).collect()
    }

    /// A pool with its scripts in base64 and its login masked.
    pub(super) fn pool(&self, state: &ApiState, record: &PoolRecord) -> Result<NodePool, ApiError> {
        let mut spec: NodePoolSpec = serde_json::from_value(record.spec.clone())
            .map_err(|error| ApiError::internal("a stored pool cannot be read", error))?;
        let owner = TemplateOwner::Pool(&record.id);
        Clear::open(state, &self.project, owner, &record.template)?
            .give_scripts(&mut spec.node_template);
        let labels = spec.node_template.k8s_tags.get_or_insert_default();
        labels.insert(POOL_LABEL.to_owned(), record.name.clone());
        let nodes = self.nodes_of(&record.id);
        let active = self.active.get(&record.id);
        let status = convert::pool_status(
            self.view(),
            &nodes,
            Some(&record.revision),
            active,
            spec.initial_node_count,
        );
        Ok(NodePool {
            kind: "NodePool".to_owned(),
            api_version: api_version(),
            metadata: NodePoolMetadata {
                name: record.name.clone(),
                uid: Some(record.id.to_string()),
                creation_timestamp: Some(wire_time(record.created_ms)),
                update_timestamp: Some(wire_time(record.updated_ms)),
                ..NodePoolMetadata::default()
            },
            spec,
            status: Some(status),
        })
    }

    /// The bucket of nodes that are in no pool.
    pub(super) fn default_pool(&self) -> NodePool {
        let id = PoolId::new(DEFAULT_POOL);
        let nodes = self.nodes_of(&id);
        let declared = self.default_revision.as_ref();
        let active = self.active.get(&id);
        let status = convert::pool_status(self.view(), &nodes, declared, active, None);
        let count = nodes.len() as i32;
        NodePool {
            kind: "NodePool".to_owned(),
            api_version: api_version(),
            metadata: NodePoolMetadata {
                name: DEFAULT_POOL.to_owned(),
                uid: Some(DEFAULT_POOL.to_owned()),
                ..NodePoolMetadata::default()
            },
            spec: NodePoolSpec { initial_node_count: Some(count), ..NodePoolSpec::default() },
            status: Some(status),
        }
    }
}
