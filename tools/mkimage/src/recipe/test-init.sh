#!/bin/busybox sh
# The test image's whole user space: its marker, the drivers of what is there, and a shell.
echo @MARKER@
export PATH=/usr/sbin:/usr/bin HOME=/root PS1='guest# '
mount -t proc proc /proc
mount -t sysfs sys /sys
grep -q ' /dev devtmpfs ' /proc/mounts || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
hostname -F /etc/hostname
ip link set lo up
for alias in $(cat /sys/bus/*/devices/*/modalias 2>/dev/null | sort -u); do
    modprobe -q "$alias"
done
cd
# Not busybox's shell: that takes its own ip and mount before those of the packages.
while true; do setsid cttyhack /bin/dash; done
