#!/bin/busybox sh
# Finds the root file system that the command line names, and starts its init. Every program that
# is executed costs a boot a millisecond, so this does with few: the shell runs busybox's small
# commands itself.
/bin/busybox mount -t proc proc /proc
mount -t devtmpfs dev /dev

read -r words < /proc/cmdline
root=/dev/vda mode=rw init=/sbin/init
for word in $words; do
    case $word in
        root=*) root=${word#root=} ;;
        init=*) init=${word#init=} ;;
        ro | rw) mode=$word ;;
    esac
done
while read -r module; do insmod "/modules/$module"; done < /modules/order

for try in 1 2 3 4 5 6 7 8 9 10; do
    test -b "$root" && break
    sleep 0.2
done
if mount -t ext4 -o "$mode" "$root" /root; then
    mount --move /dev /root/dev
    umount /proc
    exec /bin/busybox switch_root /root "$init"
fi
echo "no root file system on $root: boot with root=DEVICE, one of:"
cat /proc/partitions
/bin/busybox --install -s /bin
export PATH=/bin PS1='initrd# '
exec setsid cttyhack sh
