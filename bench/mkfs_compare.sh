#!/bin/bash
# Compares making an image from a directory: gobtrfs mkfs, mkfs.btrfs of the
# system, a current mkfs.btrfs, and kernel mkfs + loop mount + cp -a + umount.
# Everything is synced, sources are warm, images are in memory. The contestants
# take turns; the run with the median wall time is shown.
#
#   bench/mkfs_compare.sh [RUNS]
#
# SMALL    a tree of many small files        (default: /usr/share)
# LARGE    a tree of 2 GiB in large files    (default: made from SMALL)
# DIST     a tree for --shrink and zstd:15   (default: go env GOROOT)
# CURRENT  a current mkfs.btrfs              (default: left out)
# ONLY     words of: small large zstd3 zstd3large zstd15 shrink many (default: all)
# The kernel path needs root and is left out without it.
set -eu
runs=${1:-3}
small=${SMALL:-/usr/share}
dist=${DIST:-$(go env GOROOT)}
current=${CURRENT:-}
only=${ONLY:-small large zstd3 zstd3large zstd15 shrink many}
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

# Contestants of the job: labels, commands, and sizes of images made before.
labels=() commands=() sizes=()
enter() {
	labels+=("$1") commands+=("$2") sizes+=("${3:-}")
}

# race lets them take turns and prints the table: median wall seconds, user and
# system seconds of that run, its peak memory, and what the image takes.
race() {
	local i k
	rm -f "$disk"/times-*
	for i in $(seq "$runs"); do
		for k in "${!labels[@]}"; do
			rm -f "$img"
			[ -z "${sizes[k]}" ] || truncate -s "${sizes[k]}" "$img"
			if ! /usr/bin/time -f '%e %U %S %M' -o "$disk/time" bash -c "${commands[k]}" >"$disk/out" 2>&1; then
				echo "${labels[k]} failed:"
				cat "$disk/out"
				return
			fi
			echo "$(cat "$disk/time") $(stat -c '%b %s' "$img")" >>"$disk/times-$k"
		done
	done
	echo
	echo "| | seconds | CPU seconds | peak MiB | image MiB | its length |"
	echo "| --- | --- | --- | --- | --- | --- |"
	for k in "${!labels[@]}"; do
		sort -n "$disk/times-$k" | awk -v n="$runs" -v l="${labels[k]}" \
			'NR == int((n+1)/2) { printf "| %s | %.2f | %.2f | %d | %d | %d |\n", l, $1, $2+$3, $4/1024, $5/2048, $6/1048576 }'
	done
	labels=() commands=() sizes=()
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

version() { echo "mkfs.btrfs $("$1" --version | grep -o 'v[0-9.]*')"; }

describe() {
	echo
	echo "### $(find "$1" -type f | wc -l) files, $(du -sm --apparent-size "$1" | cut -f1) MiB${2:+, $2}"
	find "$1" -type f -print0 | xargs -0 cat >/dev/null
}

# compare TREE SIZE COMPRESSION
compare() {
	local tree=$1 size=$2 comp=$3
	describe "$tree" "$comp"
	enter "gobtrfs mkfs" "$disk/gobtrfs mkfs -q -r $tree --size $size ${comp:+--compress $comp} $img && sync $img"
	[ -n "$comp" ] || enter "$(version mkfs.btrfs)" "mkfs.btrfs -q -r $tree $img && sync $img" "$size"
	[ -z "$current" ] || enter "$(version "$current")" "$current -q -r $tree ${comp:+--compress $comp} $img && sync $img" "$size"
	[ "$(id -u)" != 0 ] || enter "kernel" "set -e; kernel $tree ${comp:+compress-force=}${comp:-defaults}" "$size"
	enter "reading alone (tar to a pipe)" "tar -C $tree -cf - . | cat >/dev/null; : >$img"
	race
}

shrink() {
	describe "$dist" "--shrink"
	enter "gobtrfs mkfs" "$disk/gobtrfs mkfs -q -r $dist --shrink $img && sync $img"
	enter "gobtrfs mkfs -m single" "$disk/gobtrfs mkfs -q -m single -r $dist --shrink $img && sync $img"
	[ -z "$current" ] || enter "$(version "$current")" "$current -q -r $dist --shrink $img && sync $img" 4G
	race
}

# many makes trees of 10^4, 10^5 and 10^6 files of 1500 bytes, in directories of a
# thousand. They stand in memory, because the largest does not stay in the caches of a
# disk: 5 GiB, and 2 GiB for the image.
many() {
	local n d made=0
	mkdir "$mem/many"
	for n in 10 100 1000; do
		for d in $(seq $((made + 1)) "$n"); do
			mkdir "$mem/many/$d"
			head -c 1500000 /dev/urandom | split -a 3 -b 1500 - "$mem/many/$d/file-"
		done
		made=$n
		describe "$mem/many" ""
		enter "gobtrfs mkfs" "$disk/gobtrfs mkfs -q -r $mem/many --size 8G -m single $img && sync $img"
		race
	done
	rm -rf "$mem/many"
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
	zstd15) compare "$dist" 4G zstd:15 ;;
	shrink) shrink ;;
	many) many ;;
	*) echo "no job $what" >&2 && exit 2 ;;
	esac
done
