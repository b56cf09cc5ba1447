"""The unmodified CCE SDK, pointed at a server."""

import base64

from huaweicloudsdkcce import v3 as cce
from huaweicloudsdkcore.auth.credentials import BasicCredentials

from bed import HELD, wait_for


def client(server):
    credential = server.credential
    return (
        cce.CceClient.new_builder()
        .with_credentials(BasicCredentials(credential["ak"], credential["sk"], credential["project"]))
        .with_endpoint(server.endpoint)
        .build()
    )


def b64(text):
    return base64.b64encode(text.encode()).decode()


def create_pool(api, cluster, name):
    template = cce.NodeTemplate(
        flavor="bare.metal", az="rack-1", os="Debian 12",
        login=cce.Login(ssh_key="first"),
        root_volume=cce.Volume(size=50, volumetype="SAS"), data_volumes=[],
    )
    body = cce.NodePool(
        kind="NodePool", api_version="v3", metadata=cce.NodePoolMetadata(name=name),
        spec=cce.NodePoolSpec(type="vm", initial_node_count=0, node_template=template),
    )
    return api.create_node_pool(cce.CreateNodePoolRequest(cluster_id=cluster, body=body))


def update_pool(api, cluster, pool, name, *, pre=None, post=None, wait=None, key=None, password=None, max_pods=None, labels=None, remove_password=None):
    login = None
    if key or password:
        login = cce.Login(
            ssh_key=key, user_password=cce.UserPassword(username="root", password=password) if password else None,
            remove_user_password=remove_password,
        )
    extend = cce.NodeExtendParam(
        alpha_cce_pre_install=b64(pre) if pre else None,
        # An empty script takes the pool's own away; none at all keeps it.
        alpha_cce_post_install=b64(post) if post else post,
        max_pods=max_pods,
    )
    spec = cce.NodePoolSpecUpdate(
        ignore_initial_node_count=True,
        node_template=cce.NodeSpecUpdate(login=login, wait_post_install_finish=wait, extend_param=extend, k8s_tags=labels),
    )
    body = cce.NodePoolUpdate(metadata=cce.NodePoolMetadata(name=name), spec=spec)
    return api.update_node_pool(cce.UpdateNodePoolRequest(cluster_id=cluster, nodepool_id=pool, body=body))


def migrate(api, cluster, pool, nodes):
    body = cce.MigrateNodesToNodePoolList(
        kind="List", api_version="v3", node_list=[cce.MigrateNodesToNodePool(node_id=n) for n in nodes]
    )
    return api.migrate_to_node_pool(cce.MigrateToNodePoolRequest(cluster_id=cluster, nodepool_id=pool, body=body))


def nodes(api, cluster):
    return api.list_nodes(cce.ListNodesRequest(cluster_id=cluster)).items


def upgrade(api, cluster, pool, max_unavailable, **spec):
    body = cce.UpgradeNodePool(spec=cce.NodePoolUpgradeSpec(max_unavailable=max_unavailable, node_pool_id=pool, **spec))
    return api.upgrade_node_pool(cce.UpgradeNodePoolRequest(cluster_id=cluster, nodepool_id=pool, body=body)).jobid


def show_job(api, job):
    return api.show_job(cce.ShowJobRequest(job_id=job))


def job_end(api, job, limit):
    def ended():
        shown = show_job(api, job)
        return shown if shown.status.phase in ("Success", "Failed") else None

    return wait_for(f"job {job} to end", ended, limit + HELD, every=0.5)


def show_pool(api, cluster, pool):
    return api.show_node_pool(cce.ShowNodePoolRequest(cluster_id=cluster, nodepool_id=pool))
