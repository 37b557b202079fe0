# Makes the tree $1, of unpacked packages, a small machine for tests: run by mmdebstrap.
set -eu
root=$1
cd "$root"

# What no test runs: nine tenths of what the programs depend on.
find usr/share -mindepth 1 -maxdepth 1 ! -name iproute2 -exec rm -rf {} +
rm -rf usr/include usr/games usr/lib/python3* usr/lib/systemd usr/lib/udev \
    usr/lib/x86_64-linux-gnu/gconv usr/lib/x86_64-linux-gnu/perl* \
    usr/bin/python3* usr/bin/perl* boot/System.map-* boot/config-*

# The modules of what strata emulates and of what tests do, with all that they depend on.
wanted='virtio_pci virtio_blk virtio_net virtio_console virtio-rng virtio_balloon virtio_mem
    virtio_pmem vmw_vsock_virtio_transport pvpanic-pci pvpanic-mmio vmgenid evdev button acpiphp
    8021q bridge bonding veth tun dummy af_packet isofs vfat nls_utf8 nls_iso8859-1 nls_cp437 fuse
    overlay loop dm-mod dm-flakey dm-log-writes crc32c_generic crc32c-intel'
release=$(ls usr/lib/modules)
modules=$root/usr/lib/modules/$release
chroot "$root" /usr/sbin/depmod "$release"
for module in $wanted; do
    # One that is built in, or that this kernel has not, has no line.
    sed -n "s,^\(.*/\)\?$module\.ko[^:]*:,& &,p" "$modules/modules.dep"
done | tr ' ' '\n' | sed -n 's/:*$//; /\.ko/p' | sort -u > "$modules/keep"
(
    cd "$modules"
    find kernel -type f | sort | comm -23 - keep | xargs rm -f
    find kernel -type d -empty -delete
    rm keep
)
chroot "$root" /usr/sbin/depmod "$release"

# busybox stands in for whatever the packages did not bring.
for applet in $(usr/bin/busybox --list); do
    for dir in bin sbin; do
        if [ -e "usr/$dir/$applet" ] || [ -L "usr/$dir/$applet" ]; then continue 2; fi
    done
    ln -s /usr/bin/busybox "usr/bin/$applet"
done

mkdir -p etc/network root proc sys dev run tmp mnt var/tmp
rm -f etc/mtab
ln -s /proc/self/mounts etc/mtab
echo 'root:x:0:0:root:/root:/bin/sh' > etc/passwd
echo 'root:x:0:' > etc/group
echo test > etc/hostname
echo '127.0.0.1 localhost' > etc/hosts
