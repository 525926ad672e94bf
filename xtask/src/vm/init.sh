#!/bin/busybox sh
# The first process of a guest (machine.rs). Its root becomes the host's, read-only below what the guest writes; there it
# runs /command, whose output and exit status go to the host through two ports.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod "$module"; done

mount -t 9p -o ro,cache=loose,trans=virtio,version=9p2000.L,msize=512000 root /lower
mount -t tmpfs -o size=80% rw /rw
mkdir /rw/upper /rw/work
mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work overlay /new
cd /new
mkdir -p proc sys dev run tmp
mount -t proc proc proc
mount -t sysfs sys sys
mount -t devtmpfs dev dev
mount -t tmpfs -o mode=755 run run
mkdir -p dev/pts dev/shm
mount -t devpts -o ptmxmode=666 pts dev/pts
mount -t tmpfs shm dev/shm
ln -sf /proc/self/fd dev/fd
mount -t cgroup2 cgroup2 sys/fs/cgroup
# The first mount of a bpf file system asks for a module that loads programs: seconds for nothing.
echo >/proc/sys/kernel/modprobe
mount -t bpf bpf sys/fs/bpf
echo /sbin/modprobe >/proc/sys/kernel/modprobe
mount -t debugfs debugfs sys/kernel/debug
mount -t tracefs tracefs sys/kernel/tracing
ip link set lo up

mkdir run/guest
cp /bin/busybox /command run/guest/
for port in /sys/class/virtio-ports/*; do
	read -r name <"$port/name"
	ln -s "/dev/${port##*/}" "run/guest/$name"
done
cat >run/guest/last <<'LAST'
/bin/sh /run/guest/command </dev/null >/run/guest/output 2>&1
echo $? >/run/guest/status
/run/guest/busybox poweroff -f
LAST
cd /
umount /proc /sys /dev
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
exec switch_root /new /run/guest/busybox sh /run/guest/last
