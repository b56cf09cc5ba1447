#!/bin/sh
# A reimage hook for MAAS: releases and deploys the machine of a node, and announces its new SSH host key.
# Needs: the `maas` CLI logged in under the profile $MAAS_PROFILE, jq. Contract: docs/reimage.md.
set -eu
profile=${MAAS_PROFILE:-admin}

system=$(maas "$profile" machines read hostname="$EVENKEEL_NODE" | jq -r '.[0].system_id // empty')
[ -n "$system" ] || { echo "MAAS knows no machine $EVENKEEL_NODE"; exit 1; }

wait_for() {
  tries=240 # times 15 s: one hour, the default of --reimage-limit
  while [ "$tries" -gt 0 ]; do
    status=$(maas "$profile" machine read "$system" | jq -r .status_name)
    [ "$status" = "$1" ] && return 0
    case $status in Failed*) echo "MAAS: $status"; exit 1 ;; esac
    tries=$((tries - 1))
    sleep 15
  done
  echo "waited one hour for the status $1; it is $status"
  exit 1
}

# The machine's key is made here, so that it is known before the machine is: nothing else can claim to be it.
keys=$(mktemp -d)
trap 'rm -rf "$keys"' EXIT
ssh-keygen -q -t ed25519 -N '' -C "$EVENKEEL_NODE" -f "$keys/host"
user_data=$(
  {
    echo '#cloud-config'
    echo 'ssh_deletekeys: true'
    echo 'ssh_genkeytypes: []'
    echo 'ssh_keys:'
    echo '  ed25519_private: |'
    sed 's/^/    /' "$keys/host"
    echo "  ed25519_public: $(cat "$keys/host.pub")"
    echo 'disable_root: false'
    echo 'users:'
    echo "  - name: $EVENKEEL_SSH_USER"
    echo "    sudo: ALL=(ALL) NOPASSWD:ALL"
    echo "    ssh_authorized_keys: ['$EVENKEEL_SSH_PUBLIC_KEY']"
  } | base64 -w0
)

maas "$profile" machine release "$system" >/dev/null
wait_for Ready
maas "$profile" machine deploy "$system" ${EVENKEEL_IMAGE:+distro_series="$EVENKEEL_IMAGE"} user_data="$user_data" >/dev/null
wait_for Deployed

printf '{"host_key": "%s"}\n' "$(cut -d' ' -f1,2 "$keys/host.pub")"
