#!/bin/sh
# Runs in a test node before containerd: the container it boots in has its cgroups read-only, the
# machine's own product UUID, and kernel settings that kubelet would write for the whole machine.
set -eu
exec > /run/testbed-prep.log 2>&1
set -x
# "remount" alone says that the mount point is busy.
mount -o remount,bind,rw /sys/fs/cgroup
for hierarchy in /sys/fs/cgroup/*/; do
  if mountpoint -q "$hierarchy"; then mount -o remount,bind,rw "$hierarchy"; fi
done
# kubelet reads and writes copies: the value it wants stands in them already.
mkdir -p /run/testbed-sysctl
while read -r setting value; do
  [ -e "/proc/sys/$setting" ] || continue
  copy=/run/testbed-sysctl/$(basename "$setting")
  echo "$value" > "$copy"
  mount --bind "$copy" "/proc/sys/$setting"
done << 'SETTINGS'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
SETTINGS
if [ -d /sys/class/dmi ]; then mount -t tmpfs -o ro tmpfs /sys/class/dmi; fi
mount --make-rshared /
