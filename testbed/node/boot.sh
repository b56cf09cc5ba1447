#!/bin/sh
# Holds a test node: enters its cgroups, puts its root together in a mount namespace of its own and
# boots systemd in it, again after each reboot of the node.
# Arguments: node directory, layer, base, name, network namespace file, cgroup directories.
set -eu
dir=$1 layer=$2 base=$3 name=$4 netns=$5
shift 5
for group; do echo $$ > "$group/cgroup.procs"; done
root=$dir/root
mkdir -p "$dir/upper" "$dir/scratch" "$dir/containerd" "$dir/kubelet" "$root" /run/systemd
# What systemd-nspawn keeps there goes away with this mount namespace.
mount -t tmpfs -o mode=755 tmpfs /run/systemd
mount -t overlay overlay -o "lowerdir=$layer:$base,upperdir=$dir/upper,workdir=$dir/scratch" "$root"
# The base's own systemd-nspawn with the base's own libraries: this machine needs neither.
libs=$base/usr/lib/$(uname -m)-linux-gnu
loader=$(echo "$libs"/ld-linux*.so.*)
while :; do
  # A reboot leaves the pods' control groups, and kubelet would spend 3 s looking for the container of
  # each. What is in use stays.
  for group; do
    find "$group" -mindepth 1 -depth -type d -exec rmdir '{}' ';' 2> /dev/null || true
  done
  status=0
  # The runtime's and kubelet's directories must not lie on an overlay.
  "$loader" --library-path "$libs:$libs/systemd" "$base/usr/bin/systemd-nspawn" \
    --quiet --boot --register=no --keep-unit --console=pipe \
    --directory="$root" --machine="$name" --hostname="$name" \
    --network-namespace-path="$netns" \
    --resolv-conf=off --timezone=off --link-journal=no \
    --capability=all --system-call-filter='@keyring bpf' \
    --bind=/dev/kmsg \
    --bind="$dir/containerd:/var/lib/containerd" \
    --bind="$dir/kubelet:/var/lib/kubelet" \
    --bind-ro="$dir/opt:/opt/testbed" || status=$?
  # 133 asks for a reboot.
  [ "$status" = 133 ] || exit "$status"
done
