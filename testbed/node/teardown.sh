#!/bin/sh
# Takes this host out of the test cluster and removes what kubeadm leaves: pod network, images and
# containers, kubelet's data. A host that never joined is success too.
set -eu
systemctl start containerd
kubeadm reset -f
left=$(ctr -n k8s.io tasks list -q)
if [ -n "$left" ]; then
  echo "containers still run after kubeadm reset: $left" >&2
  exit 1
fi
systemctl stop containerd
if ip link show cni0 > /dev/null 2>&1; then ip link delete cni0; fi
rm -rf /etc/cni/net.d /var/lib/cni
# Both are mount points: emptied, not removed.
find /var/lib/containerd /var/lib/kubelet -mindepth 1 -xdev -delete
systemctl start containerd
