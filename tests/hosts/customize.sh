#!/bin/sh
# Makes a test host out of the tree $1 that mmdebstrap has filled. It runs outside of the tree.
set -eu
tree=$1

# The packages that roles may install later wait in a mirror inside the tree: a booted host has no way out.
mkdir -p "$tree/srv/mirror/partial"
chroot "$tree" apt-get install --yes --no-install-recommends --download-only \
    -o Dir::Cache::archives=/srv/mirror python3-venv python3-pip restic haproxy openssl acl
cd "$tree/srv/mirror"
for deb in *.deb; do
    dpkg-deb --field "$deb"
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$deb" "$(stat -c %s "$deb")" "$(sha256sum "$deb" | cut -d ' ' -f 1)"
done > Packages
rm -rf partial lock "$tree"/etc/apt/sources.list.d/* "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/archives/*.deb
echo 'deb [trusted=yes] file:/srv/mirror ./' > "$tree/etc/apt/sources.list"
chroot "$tree" apt-get update

# A background apt would hold the lock when the role wants it.
chroot "$tree" systemctl mask apt-daily.timer apt-daily-upgrade.timer

# Each host brings its own identity.
rm -f "$tree"/etc/ssh/ssh_host_* "$tree/etc/machine-id" "$tree/etc/hostname" "$tree/etc/resolv.conf"
cat > "$tree/etc/ssh/sshd_config.d/test.conf" <<EOF
AuthorizedKeysFile /etc/ssh/authorized_keys
HostKey /etc/ssh/ssh_host_ed25519_key
EOF

# Roles are run by an ordinary administrator, not by root.
chroot "$tree" useradd --create-home --shell /bin/bash admin
echo 'admin ALL=(ALL:ALL) NOPASSWD: ALL' > "$tree/etc/sudoers.d/admin"
