#!/usr/bin/env bash
# Unpack into DIRECTORY what the virtual machines of the tests are made of, without installing any of it: Debian's
# cloud kernel, a static busybox, a DHCPv6 client, and to check disks with, mtools and cloud-init with the Python
# modules it needs. For MYCELIUM_VM_DIR; needs apt and its package lists.
set -euo pipefail
directory=${1:?usage: vm-files.sh DIRECTORY}
mkdir -p "$directory"
directory=$(cd "$directory" && pwd)
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
[ -n "$kernel" ] || { echo "no cloud kernel in the package lists; apt-get update?" >&2; exit 1; }
wanted="$kernel busybox-static isc-dhcp-client mtools
  cloud-init python3-attr python3-certifi python3-chardet python3-configobj python3-idna python3-jinja2
  python3-json-pointer python3-jsonpatch python3-jsonschema python3-markupsafe python3-netifaces python3-oauthlib
  python3-pyrsistent python3-requests python3-serial python3-six python3-urllib3 python3-yaml"
[ -e "$directory/complete" ] && [ "$(cat "$directory/complete")" = "$wanted" ] && exit
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
# As root, apt would download as a user that may not write there. Unquoted: one word for each package.
(cd "$packages" && apt-get -o APT::Sandbox::User=root download -qq $wanted)
rm -rf "$directory/boot" "$directory/lib/modules"
for package in "$packages"/*.deb; do
  dpkg-deb --extract "$package" "$directory"
done
printf '%s' "$wanted" >"$directory/complete"
