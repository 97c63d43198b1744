#!/usr/bin/env bash
# Unpack into DIRECTORY what the virtual machines of the tests are made of, without installing any of it: Debian's
# cloud kernel, a static busybox and a DHCPv6 client. For MYCELIUM_VM_DIR; needs apt and its package lists.
set -euo pipefail
directory=${1:?usage: vm-files.sh DIRECTORY}
mkdir -p "$directory"
directory=$(cd "$directory" && pwd)
[ -e "$directory/complete" ] && exit
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
[ -n "$kernel" ] || { echo "no cloud kernel in the package lists; apt-get update?" >&2; exit 1; }
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
# As root, apt would download as a user that may not write there.
(cd "$packages" && apt-get -o APT::Sandbox::User=root download -qq "$kernel" busybox-static isc-dhcp-client)
for package in "$packages"/*.deb; do
  dpkg-deb --extract "$package" "$directory"
done
touch "$directory/complete"
