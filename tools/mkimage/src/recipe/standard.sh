# Makes the tree $1 a machine for a serial console: run by mmdebstrap, outside of the tree.
set -eu
root=$1

echo debian > "$root/etc/hostname"
cat > "$root/etc/hosts" <<'EOF'
127.0.0.1 localhost
127.0.1.1 debian
::1       localhost ip6-localhost ip6-loopback
EOF
echo 'LANG=C.UTF-8' > "$root/etc/default/locale"
echo 'LABEL=root / ext4 errors=remount-ro,x-systemd.growfs 0 1' > "$root/etc/fstab"

# The partition follows a disk that was made larger, and the file system the partition.
mkdir -p "$root/etc/repart.d"
printf '[Partition]\nType=root\n' > "$root/etc/repart.d/50-root.conf"

# cloud-init's own files sort before this one.
cat > "$root/etc/systemd/network/80-dhcp.network" <<'EOF'
[Match]
Type=ether

[Network]
DHCP=yes
EOF
# A machine without a network is online too, and must not wait two minutes for it.
mkdir -p "$root/etc/systemd/system/systemd-networkd-wait-online.service.d"
cat > "$root/etc/systemd/system/systemd-networkd-wait-online.service.d/any.conf" <<'EOF'
[Service]
ExecStart=
ExecStart=-/lib/systemd/systemd-networkd-wait-online --any --timeout=20
EOF
systemctl --root="$root" --quiet enable systemd-networkd.service systemd-resolved.service

# An image is booted many times: what must be one machine's own is made at its first boot.
if [ -x "$root/usr/sbin/sshd" ]; then
    rm -f "$root"/etc/ssh/ssh_host_*
    cat > "$root/etc/systemd/system/ssh-host-keys.service" <<'EOF'
[Unit]
Description=Host keys of this machine
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
Before=ssh.service

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
EOF
    systemctl --root="$root" --quiet enable ssh-host-keys.service
fi

if [ -d "$root/etc/cloud/cloud.cfg.d" ]; then
    # Others would be asked over a network that may not be there.
    echo 'datasource_list: [ NoCloud, None ]' > "$root/etc/cloud/cloud.cfg.d/95-datasource.cfg"
else
    # Without cloud-init nobody else makes an account: root logs in on the console.
    chroot "$root" passwd --quiet --delete root
fi
