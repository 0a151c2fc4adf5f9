#!/bin/bash
# Measures `gobtrfs check` against `btrfs check --readonly` and prints a table
# in Markdown. Needs root, btrfs-progs, GNU time, python3, a kernel with btrfs,
# and 3 GiB in DIR.
#
#   bench/check.sh GOBTRFS [DIR] [MORE_BTRFS…]
#
# Filesystems are made by the kernel: 80 % of the files have up to 1.9 kB and
# are inline, 20 % have one block. Everything is in memory; contestants take
# turns; medians of RUNS (5) count, of one run for the low-memory mode.
set -eu
gobtrfs=$1 dir=$(mktemp -d "${2:-/dev/shm}/gobtrfs-bench-XXXXXX")
shift; [ $# -gt 0 ] && shift
others=(btrfs "$@")
trap 'rm -rf "$dir"' EXIT

make_image() { # FILES
	local img=$dir/$1.img mnt loop
	truncate -s 12G "$img"; mkfs.btrfs -q -m single "$img" > /dev/null 2>&1
	mnt=$(mktemp -d "$dir/mnt-XXXX"); loop=$(losetup -f --show "$img"); mount -t btrfs -o noatime "$loop" "$mnt"
	python3 - "$mnt" "$1" <<-'P'
		import os, random, sys
		d, n = sys.argv[1], int(sys.argv[2])
		r, buf = random.Random(1), os.urandom(4096)
		for i in range(n):
		    sub = os.path.join(d, "d%03d" % (i // 100000), "e%04d" % (i // 500))
		    if i % 500 == 0:
		        os.makedirs(sub)
		    with open(os.path.join(sub, "file-%07d.txt" % i), "wb") as f:
		        f.write(buf[:r.randint(1, 1900)] if r.random() < 0.8 else buf)
	P
	umount "$mnt"; losetup -d "$loop"; rmdir "$mnt"
}

measure() { # LABEL COMMAND…: appends "seconds kilobytes" to the label's file
	local label=$1; shift
	/usr/bin/time -a -o "$dir/t-$label" -f '%e %M' "$@" > /dev/null 2>&1
}

median() { sort -n "$dir/t-$1" | awk '{a[NR]=$1; m=($2>m)?$2:m} END {printf "%.2f s | %.0f MB", a[int((NR+1)/2)], m/1000}'; }

echo "| files | | time | peak memory |"; echo "|---|---|---|---|"
for n in ${SIZES:-10000 50000 100000 1000000}; do
	make_image "$n"
	img=$dir/$n.img
	rm -f "$dir"/t-*
	cat "$img" > /dev/null
	for _ in $(seq "${RUNS:-5}"); do
		measure ours "$gobtrfs" check "$img"
		for i in "${!others[@]}"; do measure "orig$i" "${others[$i]}" check --readonly "$img"; done
	done
	for i in "${!others[@]}"; do [ -n "${NOLOWMEM:-}" ] || measure "low$i" "${others[$i]}" check --readonly --mode=lowmem "$img"; done
	echo "| $n | gobtrfs check | $(median ours) |"
	for i in "${!others[@]}"; do
		v=$("${others[$i]}" version | sed -n 1p)
		echo "| $n | $v | $(median "orig$i") |"
		[ -n "${NOLOWMEM:-}" ] || echo "| $n | $v, lowmem | $(median "low$i") |"
	done
	rm -f "$img"
done
