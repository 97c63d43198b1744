#!/usr/bin/env bash
# Make DIRECTORY the root file system of a machine with container engines, without installing any of it: Podman and
# netavark, containerd, and cnitool built from Debian's sources of CNI. Debian 13, since older ones have a netavark
# without plugins. For MYCELIUM_ENGINE_DIR; needs root, apt with its package lists, and Debian's keyring.
set -euo pipefail
directory=${1:?usage: engine-files.sh DIRECTORY}
engines="podman netavark crun containerd runc busybox-static"
compiler="golang-go"
wanted="$engines $compiler golang-github-appc-cni 1"
[ -e "$directory/complete" ] && [ "$(cat "$directory/complete")" = "$wanted" ] && exit
rm -rf "$directory"
mkdir -p "$directory"
directory=$(cd "$directory" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# An apt of its own: this system's packages do not count, and of its sources only where Debian is.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(LABEL)' | sed -n 's/ Debian$//p' | head -n 1)
[ -n "$mirror" ] || { echo "no Debian among the package lists; apt-get update?" >&2; exit 1; }
mkdir -p "$work"/{lists,cache,source,go}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
for type in deb deb-src; do
  echo "$type [signed-by=$keyring] $mirror trixie main"
done >"$work/sources.list"
export APT_CONFIG="$work/apt.conf"
cat >"$APT_CONFIG" <<END
Dir::State::lists "$work/lists";
Dir::State::status "/dev/null";
Dir::Cache "$work/cache";
Dir::Etc::SourceList "$work/sources.list";
Dir::Etc::SourceParts "/dev/null";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
END
apt-get update -qq

# unpack ROOT PACKAGE…: with all that they depend on.
unpack() {
  local root=$1
  shift
  rm -f "$work"/cache/archives/*.deb
  apt-get install -y -qq --download-only "$@" >/dev/null
  # What base-files would make.
  mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
  for name in bin sbin lib lib64; do
    ln -sfn "usr/$name" "$root/$name"
  done
  printf '%s\0' "$work"/cache/archives/*.deb | xargs -0 -P 2 -I '{}' dpkg-deb --extract '{}' "$root"
}
unpack "$directory" $engines
unpack "$work/go" $compiler
(cd "$work/source" && apt-get source -qq --download-only golang-github-appc-cni >/dev/null)
sources="$work/go/path/src/github.com/containernetworking/cni"
mkdir -p "$sources"
tar --extract --file "$work"/source/*.orig.tar.* --directory "$sources" --strip-components 1
GOROOT=$(echo "$work"/go/usr/lib/go-*/) GOPATH="$work/go/path" GOCACHE="$work/go/cache" GO111MODULE=off CGO_ENABLED=0 \
  "$work"/go/usr/lib/go-*/bin/go build -o "$directory/usr/bin/cnitool" github.com/containernetworking/cni/cnitool

# What the packages' scripts would make.
echo 'root:x:0:0:root:/root:/bin/sh' >"$directory/etc/passwd"
echo 'root:x:0:' >"$directory/etc/group"
mkdir -p "$directory"/{proc,sys,dev,run,tmp,root,opt,var/tmp,var/lib/containers,var/lib/containerd,var/lib/cni,etc/cni/net.d}
# A container's root file system.
mkdir -p "$directory"/container/{bin,etc,proc,sys,dev,run,tmp}
cp "$directory/usr/bin/busybox" "$directory/container/bin/busybox"
for name in sh ip sleep; do
  ln -s busybox "$directory/container/bin/$name"
done
printf '%s' "$wanted" >"$directory/complete"
