#!/bin/bash
# Measures `gobtrfs check` and `gobtrfs scrub` against `btrfs check --readonly`,
# device reads and checksum speed, and prints tables in Markdown. Needs root,
# btrfs-progs, GNU time, python3, Go, a kernel with btrfs, and 4 GiB in DIR.
#
#   bench/check.sh [DIR]            # default: /dev/shm
#
#   GOBTRFS=bin/gobtrfs             what is measured
#   CURRENT=/path/to/btrfs          a newer btrfs to compare with, beside the installed one
#   SIZES="10000 50000 100000 1000000"   numbers of files; empty: none
#   RUNS=5                          medians of so many; contestants take turns
#   LOWMEM_UP_TO=50000              sizes for which the low-memory mode runs, once
#   DATA_MIB=1024                   for --verify-data and scrub; 0: leave that out
#
# Filesystems are made by the kernel: 80 % of the files have up to 1.9 kB and
# are inline, 20 % have one block. Everything is in memory.
set -eu
cd "$(dirname "$0")/.."
gobtrfs=$(realpath "${GOBTRFS:-bin/gobtrfs}")
dir=$(mktemp -d "${1:-/dev/shm}/gobtrfs-bench-XXXXXX")
others=(btrfs ${CURRENT:+"$CURRENT"})
runs=${RUNS:-5}
mnt='' loop=''
cleanup() {
	[ -z "$mnt" ] || umount -q "$mnt" || true
	[ -z "$loop" ] || losetup -d "$loop" || true
	rm -rf "$dir"
}
trap cleanup EXIT

mount_image() { # IMAGE
	mnt=$dir/mnt; mkdir -p "$mnt"; loop=$(losetup -f --show "$1"); mount -t btrfs -o noatime "$loop" "$mnt"
}

unmount_image() { umount "$mnt"; losetup -d "$loop"; mnt='' loop=''; }

make_files() { # IMAGE FILES
	truncate -s 12G "$1"; mkfs.btrfs -q -m single "$1" > /dev/null 2>&1
	mount_image "$1"
	python3 - "$mnt" "$2" <<-'P'
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
	unmount_image
	local have
	have=$("$gobtrfs" check --json "$1" | sed -n 's/.*"inodes":\([0-9]*\).*/\1/p')
	((have >= $2)) || { echo "the image has $have inodes, not $2" >&2; exit 1; }
}

measure() { # LABEL COMMAND…: appends "seconds cpu-seconds kilobytes" to the label's file
	local label=$1; shift
	/usr/bin/time -a -o "$dir/t-$label" -f '%e %U %S %M' "$@" > /dev/null 2>&1
}

column() { awk "{print $2}" "$dir/t-$1" | sort -n; } # LABEL EXPRESSION

median() { # LABEL
	column "$1" '$1' | awk '{t[NR]=$1} END {printf "%.2f s | ", t[int((NR+1)/2)]}'
	column "$1" '$2+$3' | awk '{t[NR]=$1} END {printf "%.2f s | ", t[int((NR+1)/2)]}'
	column "$1" '$4' | awk '{m=$1} END {printf "%.0f MB", m/1000}'
}

echo "| files | | time | processor time | peak memory |"; echo "|---|---|---|---|---|"
for n in ${SIZES-10000 50000 100000 1000000}; do
	img=$dir/$n.img
	make_files "$img" "$n"
	rm -f "$dir"/t-*
	for _ in $(seq "$runs"); do
		measure ours "$gobtrfs" check "$img"
		for i in "${!others[@]}"; do measure "orig$i" "${others[$i]}" check --readonly "$img"; done
	done
	echo "| $n | gobtrfs check | $(median ours) |"
	for i in "${!others[@]}"; do
		v=$("${others[$i]}" version | sed -n 1p)
		echo "| $n | $v | $(median "orig$i") |"
		if ((n <= ${LOWMEM_UP_TO:-50000})); then
			measure "low$i" "${others[$i]}" check --readonly --mode=lowmem "$img"
			echo "| $n | $v, lowmem | $(median "low$i") |"
		fi
	done
	rm -f "$img"
done

((${DATA_MIB:-1024} > 0)) || exit 0
go run ./bench/verify -gobtrfs "$gobtrfs" -dir "$dir" -mib "${DATA_MIB:-1024}" -runs "$runs" -others "$(IFS=,; echo "${others[*]}")"
