//! Keys of the store. A trailing slash makes a prefix for lists and watches.
//!
//! Absent on purpose: reading and writing; whoever does that names the record as well.

use super::{ClusterId, JobId, NodeId, PoolId};
use evenkeel_engine::ids::{NodeName, ObjectKey};

/// Tenants, by id.
pub fn project(project: &str) -> String {
    format!("projects/{project}")
}
/// Access keys, by AK (global: the AK names the project).
pub fn access_key(ak: &str) -> String {
    format!("access-keys/{ak}")
}
/// Users, by name (global: the name of the domain is ours alone).
pub fn user(name: &str) -> String {
    format!("users/{name}")
}
/// Tokens, by the SHA-256 of their text.
pub fn token(sha256_hex: &str) -> String {
    format!("tokens/{sha256_hex}")
}
/// The first answer to a signed mutating call.
pub fn replay(ak: &str, signature: &str) -> String {
    format!("replay/{ak}/{signature}")
}
/// Key pairs of a project.
pub fn keypair(project: &str, name: &str) -> String {
    format!("p/{project}/keypairs/{name}")
}
/// Clusters of a project (prefix).
pub fn clusters(project: &str) -> String {
    format!("p/{project}/clusters/")
}
/// A cluster.
pub fn cluster(project: &str, cluster: &ClusterId) -> String {
    format!("p/{project}/clusters/{cluster}")
}
/// Everything inside a cluster (prefix).
pub fn inside(project: &str, cluster: &ClusterId) -> String {
    format!("p/{project}/in/{cluster}/")
}
/// Pools of a cluster (prefix).
pub fn pools(project: &str, cluster: &ClusterId) -> String {
    format!("p/{project}/in/{cluster}/pools/")
}
/// A pool.
pub fn pool(project: &str, cluster: &ClusterId, pool: &PoolId) -> String {
    format!("p/{project}/in/{cluster}/pools/{pool}")
}
/// Nodes of a cluster (prefix).
pub fn nodes(project: &str, cluster: &ClusterId) -> String {
    format!("p/{project}/in/{cluster}/nodes/")
}
/// A node.
pub fn node(project: &str, cluster: &ClusterId, node: &NodeId) -> String {
    format!("p/{project}/in/{cluster}/nodes/{node}")
}
/// The identity of a node's machine after it was reinstalled.
pub fn reinstalled(project: &str, cluster: &ClusterId, node: &NodeId) -> String {
    format!("p/{project}/in/{cluster}/reinstalled/{node}")
}
/// Headers of a cluster's jobs (prefix).
pub fn jobs(project: &str, cluster: &ClusterId) -> String {
    format!("p/{project}/in/{cluster}/jobs/")
}
/// A job's immutable header.
pub fn job(project: &str, cluster: &ClusterId, job: &JobId) -> String {
    format!("p/{project}/in/{cluster}/jobs/{job}")
}
/// A job's verdict.
pub fn job_state(project: &str, cluster: &ClusterId, job: &JobId) -> String {
    format!("p/{project}/in/{cluster}/states/{job}")
}
/// Verdicts of a cluster's jobs (prefix).
pub fn job_states(project: &str, cluster: &ClusterId) -> String {
    format!("p/{project}/in/{cluster}/states/")
}
/// Touched nodes of a job (prefix).
pub fn works(project: &str, cluster: &ClusterId, job: &JobId) -> String {
    format!("p/{project}/in/{cluster}/works/{job}/")
}
/// A touched node of a job.
pub fn work(project: &str, cluster: &ClusterId, job: &JobId, node: &NodeName) -> String {
    format!("p/{project}/in/{cluster}/works/{job}/{node}")
}
/// What a job cost its workloads; absent until it has moved a pod.
pub fn account(project: &str, cluster: &ClusterId, job: &JobId) -> String {
    format!("p/{project}/in/{cluster}/accounts/{job}")
}
/// When nodes of a cluster's pools may be taken (prefix).
pub fn paces(project: &str, cluster: &ClusterId) -> String {
    format!("p/{project}/in/{cluster}/paces/")
}
/// When nodes of a pool may be taken; absent until somebody sets it.
pub fn pace(project: &str, cluster: &ClusterId, pool: &PoolId) -> String {
    format!("p/{project}/in/{cluster}/paces/{pool}")
}
/// What people ask of a cluster's jobs (prefix).
pub fn controls(project: &str, cluster: &ClusterId) -> String {
    format!("p/{project}/in/{cluster}/controls/")
}
/// What people ask of a job; absent until somebody asks.
pub fn control(project: &str, cluster: &ClusterId, job: &JobId) -> String {
    format!("p/{project}/in/{cluster}/controls/{job}")
}
/// The running synchronization of a pool: its absence is the right to start one.
pub fn active(project: &str, cluster: &ClusterId, pool: &PoolId) -> String {
    format!("p/{project}/in/{cluster}/active/{pool}")
}
/// The cluster's clock.
pub fn clock(project: &str, cluster: &ClusterId) -> String {
    format!("p/{project}/in/{cluster}/clock")
}
/// What has been learned of a cluster's pools (prefix).
pub fn learned_pools(project: &str, cluster: &ClusterId) -> String {
    format!("p/{project}/in/{cluster}/learned/pools/")
}
/// How long the parts of a node's way take in a pool.
pub fn learned_pool(project: &str, cluster: &ClusterId, pool: &PoolId) -> String {
    format!("p/{project}/in/{cluster}/learned/pools/{pool}")
}
/// What has been learned of a cluster's budgets (prefix).
pub fn learned_budgets(project: &str, cluster: &ClusterId) -> String {
    format!("p/{project}/in/{cluster}/learned/budgets/")
}
/// How long a budget needs until an evicted pod is made good.
pub fn learned_budget(project: &str, cluster: &ClusterId, budget: &ObjectKey) -> String {
    format!("p/{project}/in/{cluster}/learned/budgets/{budget}")
}
/// The acting replica; its create revision is the epoch.
pub fn leader(project: &str, cluster: &ClusterId) -> String {
    format!("p/{project}/in/{cluster}/leader")
}
/// Running synchronizations of a cluster, by pool (prefix).
pub fn actives(project: &str, cluster: &ClusterId) -> String {
    format!("p/{project}/in/{cluster}/active/")
}
/// The right to a pool name.
pub fn pool_name(project: &str, cluster: &ClusterId, name: &str) -> String {
    format!("p/{project}/pool-names/{cluster}/{name}")
}
/// The right to a cluster name.
pub fn cluster_name(project: &str, name: &str) -> String {
    format!("p/{project}/cluster-names/{name}")
}
/// Rewritten whenever nodes enter or leave a pool: fences an acceptance against a migration.
pub fn membership(project: &str, cluster: &ClusterId, pool: &PoolId) -> String {
    format!("p/{project}/membership/{cluster}/{pool}")
}
/// The template that was last asked for in `DefaultPool`.
pub fn default_template(project: &str, cluster: &ClusterId) -> String {
    format!("p/{project}/default-templates/{cluster}")
}
/// Key pairs of a project (prefix).
pub fn keypairs(project: &str) -> String {
    format!("p/{project}/keypairs/")
}
/// Where jobs whose ids begin like this live (prefix).
pub fn job_indexes(project: &str, start: &str) -> String {
    format!("p/{project}/job-index/{start}")
}
/// Where a job of a project lives.
pub fn job_index(project: &str, job: &JobId) -> String {
    format!("p/{project}/job-index/{job}")
}
/// Agents of a cluster, by node (prefix).
pub fn agents(project: &str, cluster: &ClusterId) -> String {
    format!("p/{project}/agents/{cluster}/")
}
/// The agent of a node.
pub fn agent(project: &str, cluster: &ClusterId, node: &NodeId) -> String {
    format!("p/{project}/agents/{cluster}/{node}")
}
/// Where an agent belongs, by its id (global: the credential names nothing else).
pub fn agent_id(id: &str) -> String {
    format!("agents/{id}")
}
/// Where an enrolment token belongs, by the SHA-256 of its text (global).
pub fn agent_token(sha256_hex: &str) -> String {
    format!("agent-tokens/{sha256_hex}")
}
/// Where a job lives, whatever its project (global: the id is a UUID of ours). For the machines' side alone: what a
/// tenant asks for is looked up below its project.
pub fn job_place(job: &JobId) -> String {
    format!("job-places/{job}")
}
/// A cluster that has an actor (global: the actors serve all tenants).
pub fn cluster_place(cluster: &ClusterId) -> String {
    format!("{CLUSTER_PLACES}{cluster}")
}
/// All clusters that have actors (prefix).
pub const CLUSTER_PLACES: &str = "cluster-places/";
