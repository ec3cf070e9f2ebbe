#!/bin/busybox sh
# First process of a VM whose root is all its own: nothing of this machine is mounted in it, so that it can move to another QEMU.
/bin/busybox --install -s /bin
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/root
mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/modules/$module" || echo "lab: no $module"; done </modules/order
mkdir -p /dev/shm /tmp /mnt && mount -t tmpfs shm /dev/shm && ln -s /proc/self/fd /dev/fd
exec /lab/programs/tenure-lab agent /dev/vport0p1
