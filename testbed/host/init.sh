#!/bin/sh
# PID 1 of a test host: builds its root from the shared base, then becomes sshd.
# Arguments: host directory, base directory, node name, address, port.
# There is no /sys: the machine's own product UUID must not make all hosts look like one.
set -eu
dir=$1 base=$2 name=$3 address=$4 port=$5
root=$dir/root
mkdir -p "$dir/upper" "$dir/scratch" "$root"
mount -t overlay overlay -o "lowerdir=$base,upperdir=$dir/upper,workdir=$dir/scratch" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755,size=64m tmpfs "$root/run"
# Each start is a boot of its own, as the kernel of a machine would have it.
cat /proc/sys/kernel/random/uuid > "$root/run/boot-id"
mount --bind "$root/run/boot-id" "$root/proc/sys/kernel/random/boot_id"
mount -t tmpfs -o mode=755,size=1m tmpfs "$root/dev"
for device in null zero full random urandom tty; do
  : > "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir -p "$root/dev/pts" "$root/dev/shm" "$root/opt/testbed" "$root/root/.ssh"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o size=16m tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount --bind "$dir/opt" "$root/opt/testbed"
mount -o remount,bind,ro "$root/opt/testbed"
hostname "$name"
echo "$name" > "$root/etc/hostname"
cp "$dir/machine-id" "$root/etc/machine-id"
printf '127.0.0.1 localhost\n%s %s\n' "$address" "$name" > "$root/etc/hosts"
# Only on the first boot: what a login step does to the key must outlive a restart.
if [ ! -e "$root/etc/ssh/ssh_host_ed25519_key" ]; then
  chmod 700 "$root/root/.ssh"
  cp "$dir/authorized_keys" "$root/root/.ssh/authorized_keys"
  chmod 600 "$root/root/.ssh/authorized_keys"
  ssh-keygen -q -t ed25519 -N '' -C "$name" -f "$root/etc/ssh/ssh_host_ed25519_key"
fi
cd "$root"
mkdir -p .old
pivot_root . .old
cd /
umount -l /.old
rmdir /.old
mkdir -p /run/sshd
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
exec /usr/sbin/sshd -D -e -o "ListenAddress=$address:$port"
