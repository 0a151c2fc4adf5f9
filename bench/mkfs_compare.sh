#!/bin/bash
# Compares making an image from a directory: gobtrfs mkfs, mkfs.btrfs of the
# system, a current mkfs.btrfs, and kernel mkfs + loop mount + cp -a + umount.
# Everything is synced, sources are warm, images are in memory.
#
#   bench/mkfs_compare.sh [RUNS]
#
# SMALL    a tree of many small files        (default: /usr/share)
# LARGE    a tree of 2 GiB in large files    (default: made from SMALL)
# CURRENT  a current mkfs.btrfs              (default: left out)
# ONLY     words of: small large zstd3 zstd3large zstd15 (default: all)
# The kernel path needs root and is left out without it.
set -eu
runs=${1:-3}
small=${SMALL:-/usr/share}
current=${CURRENT:-}
only=${ONLY:-small large zstd3 zstd3large zstd15}
here=$(cd "$(dirname "$0")/.." && pwd)
mem=$(mktemp -d /dev/shm/gobtrfs-bench.XXXXXX)
disk=$(mktemp -d "${TMPDIR:-/tmp}/gobtrfs-bench.XXXXXX")
mnt=
cleanup() {
	[ -z "$mnt" ] || umount "$mnt" 2>/dev/null || true
	rm -rf "$mem" "$disk"
}
trap cleanup EXIT
(cd "$here" && CGO_ENABLED=0 go build -o "$disk/gobtrfs" ./cmd/gobtrfs)
img=$mem/image

# one LABEL COMMAND…: median wall seconds, CPU seconds and peak memory.
one() {
	local label=$1 i
	shift
	: >"$disk/times"
	for i in $(seq "$runs"); do
		rm -f "$img"
		[ -z "${SIZE:-}" ] || truncate -s "$SIZE" "$img"
		/usr/bin/time -f '%e %U %S %M' -a -o "$disk/times" "$@" >"$disk/out" 2>&1 || { echo "$label failed:"; cat "$disk/out"; return; }
	done
	sort -n "$disk/times" | awk -v n="$runs" -v l="$label" -v b="$(stat -c %b "$img")" \
		'NR == int((n+1)/2) { printf "| %s | %.2f | %.2f | %d | %d |\n", l, $1, $2+$3, $4/1024, b/2048 }'
}

kernel() {
	mkfs.btrfs -q "$img"
	mnt=$(mktemp -d "$disk/mnt.XXXXXX")
	mount -o "loop,$2" "$img" "$mnt"
	cp -a "$1/." "$mnt"
	umount "$mnt"
	sync "$img"
}
export -f kernel
export img disk

# compare TREE SIZE COMPRESSION
compare() {
	local tree=$1 size=$2 comp=$3
	echo
	echo "### $(find "$tree" -type f | wc -l) files, $(du -sm --apparent-size "$tree" | cut -f1) MiB${comp:+, $comp}"
	echo
	echo "| | seconds | CPU seconds | peak MiB | image MiB |"
	echo "| --- | --- | --- | --- | --- |"
	find "$tree" -type f -print0 | xargs -0 cat >/dev/null
	SIZE= one "gobtrfs mkfs" sh -c "$disk/gobtrfs mkfs -q -r $tree --size $size ${comp:+--compress $comp} $img && sync $img"
	[ -n "$comp" ] || SIZE=$size one "mkfs.btrfs $(mkfs.btrfs --version | grep -o 'v[0-9.]*')" sh -c "mkfs.btrfs -q -r $tree $img && sync $img"
	[ -z "$current" ] || SIZE=$size one "mkfs.btrfs $($current --version | grep -o 'v[0-9.]*')" sh -c "$current -q -r $tree ${comp:+--compress $comp} $img && sync $img"
	[ "$(id -u)" != 0 ] || SIZE=$size one "kernel" bash -c "set -e; kernel $tree ${comp:+compress-force=}${comp:-defaults}" || true
	SIZE= one "reading alone (tar to a pipe)" sh -c "tar -C $tree -cf - . | cat >/dev/null; : >$img"
}

large() {
	if [ -n "${LARGE:-}" ]; then
		echo "$LARGE"
		return
	fi
	mkdir -p "$disk/large"
	(while tar -C "$small" -cf - . 2>/dev/null; do :; done) | head -c 2G | split -b 256M - "$disk/large/part-"
	echo "$disk/large"
}

for what in $only; do
	case $what in
	small) compare "$small" 4G "" ;;
	large) compare "$(large)" 4G "" ;;
	zstd3) compare "$small" 4G zstd:3 ;;
	zstd3large) compare "$(large)" 4G zstd:3 ;;
	zstd15) compare "$small" 4G zstd:15 ;;
	esac
done
