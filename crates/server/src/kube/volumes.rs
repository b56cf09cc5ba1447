//! Claims and volumes: which pods can only run where their disk is. Listed when somebody asks, never watched: few
//! clusters have many, and nothing that is decided in a hurry rests on them.

use super::intern::Interner;
use super::slim::Kind;
use super::slim::spec::NodeSelector;
use super::watch::list;
use super::wire::Wire;
use crate::sync::ports::Fault;
use evenkeel_engine::ids::ObjectKey;
use evenkeel_engine::place::NodeAffinity;
use evenkeel_engine::preview::concern::Volumes;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize, Default)]
#[serde(default)]
struct Meta {
    name: String,
    namespace: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Claim {
    metadata: Meta,
    spec: ClaimSpec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ClaimSpec {
    volume_name: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Volume {
    metadata: Meta,
    spec: VolumeSpec,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct VolumeSpec {
    node_affinity: Option<VolumeAffinity>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct VolumeAffinity {
    required: Option<NodeSelector>,
}

impl Kind for Claim {
    type Fact = (ObjectKey, String);
    const RESOURCE: &'static str = "persistentvolumeclaims";
    const PATH: &'static str = "/api/v1/persistentvolumeclaims";

    fn fact(self, _interner: &Interner) -> Option<Self::Fact> {
        let volume = self.spec.volume_name.filter(|name| !name.is_empty())?;
        Some((ObjectKey::new(self.metadata.namespace, self.metadata.name), volume))
    }
}

impl Kind for Volume {
    type Fact = (String, NodeAffinity);
    const RESOURCE: &'static str = "persistentvolumes";
    const PATH: &'static str = "/api/v1/persistentvolumes";

    fn fact(self, _interner: &Interner) -> Option<Self::Fact> {
        let affinity = self.spec.node_affinity?.required?.affinity();
        affinity.is_some().then_some((self.metadata.name, affinity))
    }
}

/// Claims that are bound to volumes which only some nodes reach.
pub(super) async fn volumes(wire: &Wire) -> Result<Volumes, Fault> {
    let interner = Interner::default();
    let (volumes, _) = list::<Volume>(wire, &interner, None).await?;
    if volumes.is_empty() {
        return Ok(Volumes::new());
    }
    let affinities: BTreeMap<String, NodeAffinity> = volumes.into_iter().collect();
    let (claims, _) = list::<Claim>(wire, &interner, None).await?;
    let affinity =
        |(claim, volume): (ObjectKey, String)| Some((claim, affinities.get(&volume)?.clone()));
    Ok(claims.into_iter().filter_map(affinity).collect())
}
