#!/usr/bin/env bash
# usage: run.sh GOBTRFS
# Two filesystems, no root, no mount: one that Linux wrote and left unclean, one that gobtrfs makes. Each is listed, read back and verified.
set -euo pipefail
gobtrfs=$(realpath "$1")
here=$(dirname "$(realpath "$0")")
root=$(dirname "$here")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '$ gobtrfs %s\n' "$*"; "$gobtrfs" "$@"; }

say "1. A filesystem that Linux 6.18 wrote, copied while it was mounted: an fsync is still in its log."
gunzip -c <"$root/internal/specimen/unclean.raw.gz.gz" | gunzip -c >linux.img
show subvolume list linux.img
show ls -l linux.img /a
show cat linux.img /a/logged
say "   What Linux showed of it after mounting, entry by entry (414 lines of types, owners, times, xattrs, sums of contents):"
gunzip -c <"$here/kernel.manifest.gz" >kernel.manifest
show manifest --compare kernel.manifest linux.img
echo "no difference"
say "   Copied out, with a file of 302 names:"
show extract --quiet --no-owner linux.img /a/b out
printf '%d names of %d files\n' "$(find out -type f | wc -l)" "$(find out -type f -printf '%i\n' | sort -u | wc -l)"

say "2. A filesystem of our own, made from this source tree."
mkdir tree && (cd "$root" && tar -cf - disk report docs) | tar -xf - -C tree
show mkfs --quiet --rootdir tree --compress zstd --shrink own.img
show usage own.img
show check own.img
show extract --quiet own.img back
diff -r tree back
echo "what was put in came back"
