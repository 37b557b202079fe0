#!/bin/busybox sh
# Finds the root file system that the command line names, and starts its init.
/bin/busybox --install -s /bin
export PATH=/bin PS1='initrd# '
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

root=/dev/vda mode=rw init=/sbin/init
for word in $(cat /proc/cmdline); do
    case $word in
        root=*) root=${word#root=} ;;
        init=*) init=${word#init=} ;;
        ro | rw) mode=$word ;;
    esac
done
for module in $(cat /modules/order); do insmod "/modules/$module"; done

for try in 1 2 3 4 5 6 7 8 9 10; do
    test -b "$root" && break
    sleep 0.2
done
if mkdir -p /root && mount -t ext4 -o "$mode" "$root" /root; then
    mount --move /dev /root/dev
    umount /sys
    umount /proc
    exec switch_root /root "$init"
fi
echo "no root file system on $root: boot with root=DEVICE, one of:"
cat /proc/partitions
exec setsid cttyhack sh
