#!/bin/bash
# Measures a mount for writing against the kernel's mount of the same kind of
# image in memory, and against go-fuse's loopback example over memory, which is
# about what a FUSE server with this library can reach, and prints a table in
# Markdown. Needs root, FUSE, btrfs-progs, python3, a kernel with btrfs and 6 GiB
# in DIR.
#
#   bench/mount.sh [DIR]            # default: /dev/shm
#
#   GOBTRFS=bin/gobtrfs             what is measured
#   RUNS=5                          medians of so many; contestants take turns
#   MIB=512                         length of the big file
#   FILES=5000                      small files of 1 KiB
#   SYNCS=200                       4 KiB writes with fsync
set -eu
cd "$(dirname "$0")/.."
gobtrfs=$(realpath "${GOBTRFS:-bin/gobtrfs}")
dir=$(mktemp -d "${1:-/dev/shm}/gobtrfs-bench-XXXXXX")
mnt=$dir/mnt loop='' server=''
mkdir "$mnt" "$dir/memory"
cleanup() {
	umount -q "$mnt" || true
	[ -z "$loop" ] || losetup -d "$loop" || true
	rm -rf "$dir"
}
trap cleanup EXIT
go build -o "$dir/loopback" github.com/hanwen/go-fuse/v2/example/loopback

up() { # WHO
	case $1 in
	kernel) loop=$(losetup -f --show "$dir/img"); mount -t btrfs -o noatime "$loop" "$mnt" ;;
	gobtrfs) "$gobtrfs" mount --log "$dir/log" "$dir/img" "$mnt" ;;
	gobtrfs-writeback) "$gobtrfs" mount -o writeback_cache --log "$dir/log" "$dir/img" "$mnt" ;;
	loopback)
		"$dir/loopback" -q -directmountstrict "$mnt" "$dir/memory" > "$dir/log" 2>&1 & server=$!
		until mountpoint -q "$mnt"; do sleep 0.02; done ;;
	esac
}

down() { # WHO
	case $1 in
	kernel) umount "$mnt"; losetup -d "$loop"; loop='' ;;
	gobtrfs*) "$gobtrfs" umount "$mnt" ;;
	loopback) umount "$mnt"; wait "$server"; server='' ;;
	esac
}

cat > "$dir/work.py" <<'P'
import os, sys, time
where, mib, files, syncs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
def timed(name, count, unit, f):
    t = time.perf_counter(); f(); t = time.perf_counter() - t
    print(name, count / t if unit != 'us' else t / count * 1e6, unit)
piece = os.urandom(1 << 20)
def write():
    fd = os.open(where + '/big', os.O_WRONLY | os.O_CREAT, 0o644)
    for _ in range(mib): os.write(fd, piece)
    os.close(fd)
def write_sync():
    write(); fd = os.open(where + '/big', os.O_RDONLY); os.fsync(fd); os.close(fd)
def read():
    fd = os.open(where + '/big', os.O_RDONLY)
    while os.read(fd, 1 << 20): pass
    os.close(fd)
def create():
    for i in range(files):
        os.close(os.open('%s/d/%d' % (where, i), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
def fill():
    for i in range(files):
        fd = os.open('%s/e/%d' % (where, i), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, piece[:1024]); os.close(fd)
def remove():
    for i in range(files): os.unlink('%s/d/%d' % (where, i))
def small():
    fd = os.open(where + '/big', os.O_WRONLY)
    for i in range(files): os.pwrite(fd, piece[:4096], i * 4096)
    os.close(fd)
def sync():
    fd = os.open(where + '/log', os.O_WRONLY | os.O_CREAT, 0o644)
    for i in range(syncs): os.write(fd, piece[:4096]); os.fsync(fd)
    os.close(fd)
if sys.argv[5] == 'write':
    os.mkdir(where + '/d'); os.mkdir(where + '/e')
    timed('sequential write, 1 MiB', mib, 'MiB/s', write)
    os.unlink(where + '/big')
    timed('sequential write, 1 MiB, and fsync', mib, 'MiB/s', write_sync)
    timed('overwrite, 4 KiB', files, '1/s', small)
    timed('create and close', files, '1/s', create)
    timed('create, 1 KiB and close', files, '1/s', fill)
    timed('unlink', files, '1/s', remove)
    timed('4 KiB append and fsync', syncs, 'us', sync)
else:
    timed('sequential read after mounting', mib, 'MiB/s', read)
P

for ((run = 0; run < ${RUNS:-5}; run++)); do
	for who in kernel loopback gobtrfs gobtrfs-writeback; do
		rm -rf "$dir/img" "$dir/memory"/*
		truncate -s 6G "$dir/img"; mkfs.btrfs -q "$dir/img" > /dev/null 2>&1
		for part in write read; do
			up $who
			python3 "$dir/work.py" "$mnt" "${MIB:-512}" "${FILES:-5000}" "${SYNCS:-200}" $part | sed "s/^/$who /" >> "$dir/results"
			down $who
		done
	done
done
python3 - "$dir/results" <<'P'
import statistics, sys
who = ['kernel', 'loopback', 'gobtrfs', 'gobtrfs-writeback']
rows = {}
for line in open(sys.argv[1]):
    w, rest = line.split(' ', 1)
    name, value, unit = rest.rsplit(' ', 2)
    rows.setdefault((name, unit.strip()), {}).setdefault(w, []).append(float(value))
print('| work | unit | ' + ' | '.join(who) + ' | of the ceiling |')
print('| --- | --- |' + ' --- |' * 5)
for (name, unit), by in rows.items():
    m = {w: statistics.median(by[w]) for w in who}
    share = m['gobtrfs'] / m['loopback'] if unit != 'us' else m['loopback'] / m['gobtrfs']
    print(f'| {name} | {unit} | ' + ' | '.join(f'{m[w]:.0f}' for w in who) + f' | {share:.0%} |')
P
