#!/bin/bash
# Measures a mount for writing and prints tables in Markdown, and at the end
# which aims are met:
#
#   kernel     the kernel's mount of the same kind of image in the same memory
#   ceiling    go-fuse's own in-memory example (example/memfs): what a FUSE
#              server with this library reaches that has nothing to do
#   gobtrfs    and with -o writeback_cache, which is no part of the aims
#
# Needs root, FUSE, btrfs-progs, python3, Go, a kernel with btrfs and 4 GiB in
# DIR. Contestants take turns; medians of RUNS. Some five minutes on an idle
# machine. It drops the kernel's caches.
#
#   bench/mount.sh [DIR]            # default: /dev/shm
#
#   GOBTRFS=bin/gobtrfs             what is measured
#   RUNS=5
#   MIB=512                         length of the big file
#   FILES=5000                      small files of 1 KiB
#   SYNCS=200                       4 KiB appends with fsync
#   TREE=DIR                        the tree for find and tar; default: 50,000
#                                   files in 1,000 directories, made at random
#   ONLY=kernel,ceiling,gobtrfs     contestants
#   PARTS=files,tree                what to do
set -eu
cd "$(dirname "$0")/.."
gobtrfs=$(realpath "${GOBTRFS:-bin/gobtrfs}")
runs=${RUNS:-5}
IFS=, read -ra contestants <<< "${ONLY:-kernel,ceiling,gobtrfs,gobtrfs-writeback}"
parts=,${PARTS:-files,tree},
dir=$(mktemp -d "${1:-/dev/shm}/gobtrfs-bench-XXXXXX")
mnt=$dir/mnt loop='' server='' up=''
mkdir "$mnt" "$dir/memory"
cleanup() {
	trap '' INT TERM
	if [ -n "$up" ]; then down "$up" || umount -l "$mnt" || true; fi
	[ -z "$loop" ] || losetup -d "$loop" || true
	[ -z "$server" ] || kill "$server" 2> /dev/null || true
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

up() { # WHO IMAGE MODE, which is rw or ro
	case $1 in
	kernel)
		loop=$(losetup -f --show "$2"); up=$1
		mount -t btrfs -o "$3,noatime" "$loop" "$mnt" ;;
	gobtrfs) "$gobtrfs" mount -o "$3,noatime" --log "$dir/log" "$2" "$mnt"; up=$1 ;;
	gobtrfs-writeback) "$gobtrfs" mount -o "$3,noatime,writeback_cache" --log "$dir/log" "$2" "$mnt"; up=$1 ;;
	ceiling)
		"$dir/memfs" "$mnt" "$dir/memory/" > "$dir/log" 2>&1 & server=$!
		up=$1
		until mountpoint -q "$mnt"; do kill -0 "$server"; sleep 0.02; done ;;
	esac
}

down() { # WHO
	case $1 in
	kernel)
		umount "$mnt"; up=''
		losetup -d "$loop"; loop='' ;;
	gobtrfs*) "$gobtrfs" umount "$mnt"; up='' ;;
	ceiling)
		umount "$mnt"; up=''
		wait "$server"; server=''
		rm -rf "$dir/memory"; mkdir "$dir/memory" ;;
	esac
}

forget() { # what the kernel has of files and names in memory
	case $up in gobtrfs*) "$gobtrfs" sync "$mnt" ;; *) sync ;; esac
	echo 3 > /proc/sys/vm/drop_caches
}

cat > "$dir/files.py" <<'P'
import os, sys, time
where, mib, files, syncs, step = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
def timed(name, count, unit, f):
    t = time.perf_counter(); f(); t = time.perf_counter() - t
    print(name, count / t if unit != 'us' else t / count * 1e6, unit, sep='\t')
piece = os.urandom(1 << 20)
buf = bytearray(1 << 20)
def write(name='/big', sync=False):
    fd = os.open(where + name, os.O_WRONLY | os.O_CREAT, 0o644)
    for _ in range(mib): os.write(fd, piece)
    if sync: os.fsync(fd)
    os.close(fd)
def read():
    fd = os.open(where + '/big', os.O_RDONLY)
    n = 0
    while got := os.readv(fd, [buf]): n += got
    os.close(fd)
    assert n == mib << 20
def create(dir, size):
    for i in range(files):
        fd = os.open('%s/%s/%d' % (where, dir, i), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        if size: os.write(fd, piece[:size])
        os.close(fd)
def remove():
    for i in range(files): os.unlink('%s/d/%d' % (where, i))
def small():
    fd = os.open(where + '/big', os.O_WRONLY)
    for i in range(files): os.pwrite(fd, piece[:4096], i * 4096 % (mib << 20))
    os.close(fd)
def sync():
    fd = os.open(where + '/log', os.O_WRONLY | os.O_CREAT, 0o644)
    for i in range(syncs): os.write(fd, piece[:4096]); os.fsync(fd)
    os.close(fd)
if step == 'read':
    timed('sequential read, 1 MiB', mib, 'MiB/s', read)
else:
    os.mkdir(where + '/d'); os.mkdir(where + '/e')
    timed('create and close', files, '1/s', lambda: create('d', 0))
    timed('create, 1 KiB and close', files, '1/s', lambda: create('e', 1024))
    timed('unlink', files, '1/s', remove)
    timed('4 KiB append and fsync', syncs, 'us', sync)
    timed('sequential write, 1 MiB', mib, 'MiB/s', write)
    os.unlink(where + '/big')
    timed('sequential write, 1 MiB, and fsync', mib, 'MiB/s', lambda: write(sync=True))
    timed('overwrite, 4 KiB', files, '1/s', small)
P

cat > "$dir/report.py" <<'P'
import statistics, sys
who, rows = sys.argv[2].split(','), {}
for line in open(sys.argv[1]):
    w, name, value, unit = line.rstrip('\n').split('\t')
    rows.setdefault((name, unit), {}).setdefault(w, []).append(float(value))
mid = {row: {w: statistics.median(v) for w, v in by.items()} for row, by in rows.items()}
print('| work | unit | ' + ' | '.join(who) + ' |')
print('| --- | --- |' + ' --- |' * len(who))
for (name, unit), m in mid.items():
    print(f'| {name} | {unit} | ' + ' | '.join(f'{m[w]:.{2 if unit == "s" else 0}f}' if w in m else '-' for w in who) + ' |')
aims = [ # row, against whom, ours by theirs: at least, or at most
    ('sequential read, 1 MiB', 'MiB/s', 'ceiling', '>=', 0.8),
    ('sequential write, 1 MiB', 'MiB/s', 'ceiling', '>=', 0.8),
    ('create and close', '1/s', 'ceiling', '>=', 0.8),
    ('4 KiB append and fsync', 'us', 'kernel', '<=', 1.5),
]
for mode in 'ro', 'rw':
    for state in 'cold', 'warm':
        aims.append((f'tar c, {mode}, {state}', 's', 'kernel', '<=', 2))
        aims.append((f'find, {mode}, {state}', 's', 'kernel', '<=', 3))
print('\n| aim | asked | is | |')
print('| --- | --- | --- | --- |')
for name, unit, whose, rel, bound in aims:
    m = mid.get((name, unit), {})
    if 'gobtrfs' not in m or whose not in m: continue
    r = m['gobtrfs'] / m[whose]
    ok = r >= bound if rel == '>=' else r <= bound
    print(f'| {name} | {rel} {bound:g} of {whose} | {r:.2f} | {"met" if ok else "NOT MET"} |')
P

note() { # WHO; reads "work, value, unit" with tabs between
	sed "s/^/$1\t/" >> "$dir/results"
}

files() {
	local who
	for ((run = 0; run < runs; run++)); do
		for who in "${contestants[@]}"; do
			rm -f "$dir/img"; truncate -s 6G "$dir/img"
			mkfs.btrfs -q "$dir/img" > /dev/null 2>&1
			up "$who" "$dir/img" rw
			for step in write read; do
				python3 "$dir/files.py" "$mnt" "${MIB:-512}" "${FILES:-5000}" "${SYNCS:-200}" $step | note "$who"
				forget
			done
			down "$who"
		done
	done
	rm -f "$dir/img"
}

make_tree() {
	python3 - "$1" <<'P'
import os, random, sys
r = random.Random(1); noise = r.randbytes(1 << 16)
for d in range(1000):
    where = '%s/%02d/%02d' % (sys.argv[1], d // 40, d % 40); os.makedirs(where)
    for i in range(50):
        with open('%s/file-%05d' % (where, d * 50 + i), 'wb') as f:
            f.write(noise[:int(1200 * r.expovariate(1) * r.expovariate(1))])
P
}

seconds() { # WORK COMMAND…: prints work, seconds and unit
	local work=$1 from; shift
	from=$EPOCHREALTIME
	"$@" || return
	printf '%s\t%s\ts\n' "$work" "$(python3 -c "print($EPOCHREALTIME - $from)")"
}

walk() { find "$mnt/" > /dev/null; }
pack() { tar -C "$mnt" -c . | cat > /dev/null; }

tree() {
	local from=${TREE:-} who state work mode
	if [ -z "$from" ]; then
		from=$dir/tree
		make_tree "$from"
	fi
	truncate -s 4G "$dir/img"
	mkfs.btrfs -q --rootdir "$from" "$dir/img" > /dev/null 2>&1
	rm -rf "$dir/tree"
	for ((run = 0; run < runs; run++)); do
		for who in "${contestants[@]}"; do
			case $who in kernel | gobtrfs) ;; *) continue ;; esac
			for mode in rw ro; do
				for work in find 'tar c'; do
					forget
					up "$who" "$dir/img" $mode
					for state in cold warm; do
						case $work in
						find) seconds "$work, $mode, $state" walk ;;
						*) seconds "$work, $mode, $state" pack ;;
						esac | note "$who"
					done
					down "$who"
				done
			done
		done
	done
}

go build -o "$dir/memfs" github.com/hanwen/go-fuse/v2/example/memfs
[[ $parts != *,files,* ]] || files
[[ $parts != *,tree,* ]] || tree
python3 "$dir/report.py" "$dir/results" "$(IFS=,; echo "${contestants[*]}")"
