#!/bin/sh
# Joins the test cluster. kubeadm refuses while a Node of this name counts as Ready, which it does
# until the node monitor notices that its kubelet is gone.
set -eu
ready() {
  kubectl --server='https://@ENDPOINT@' --certificate-authority=/opt/testbed/ca.crt --token='@TOKEN@' \
    get node "$(hostname)" --ignore-not-found \
    -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'
}
tries=0
until state=$(ready) && [ "$state" != True ]; do
  tries=$((tries + 1))
  if [ "$tries" -gt 60 ]; then
    echo "the Node $(hostname) still counts as Ready after 60 looks" >&2
    exit 1
  fi
  sleep 0.5
done
# cgroup v1 fails kubeadm's system verification; kubelet is configured to accept it.
@JOIN@ --ignore-preflight-errors=@IGNORED@
