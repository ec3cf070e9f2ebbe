#!/bin/busybox sh
# First process of the lab's VM: modules, then the host's own root, read-only over 9p below a tmpfs, then the agent in it.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/modules/$module" || echo "lab: no $module"; done </modules/order
mount -t tmpfs -o size=80% tmpfs /overlay && mkdir /overlay/upper /overlay/work
share=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o "$share,ro,cache=loose" root /lower || echo "lab: no root"
mount -t overlay -o lowerdir=/lower,upperdir=/overlay/upper,workdir=/overlay/work overlay /root
for where in proc sys dev; do mount -o move "/$where" "/root/$where"; done
mount -t tmpfs run /root/run && mkdir -p /root/lab/programs /root/lab/keep /root/dev/shm
mount -t configfs configfs /root/sys/kernel/config
mount -t 9p -o "$share,ro,cache=loose" programs /root/lab/programs || echo "lab: no programs"
mount -t 9p -o "$share" keep /root/lab/keep || echo "lab: nothing to keep things on"
ifconfig lo 127.0.0.1 up
for word in $(cat /root/proc/cmdline); do
  card=${word%%=*}
  case "$card" in lab.eth*) ifconfig "${card#lab.}" "${word#*=}" netmask 255.255.255.0 up ;; esac
done
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME=/root
exec chroot /root /lab/programs/tenure-lab agent /dev/vport0p1
