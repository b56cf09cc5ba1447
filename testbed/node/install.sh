#!/bin/sh
# Makes this host a node of the test cluster, as a user of kubeadm would.
set -eu
systemctl start containerd
sh /opt/testbed/join.sh
