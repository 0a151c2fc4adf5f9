package check_test

import (
	"path/filepath"
	"testing"

	"gobtrfs/check"
	"gobtrfs/internal/oracle"
)

// fsync is a shell function: sync with files synchronises only these.
const fsync = "fsync() { sync \"$@\"; }\n"

// notDamage are states that some version of btrfs check took for damage, or that
// are easily taken for it, as the kernel makes them.
var notDamage = []struct {
	name    string
	mkfs    []string
	mount   string
	script  string // in the mounted filesystem
	pending bool   // leaves a log tree: looked at without unmounting
}{
	{name: "preallocated space shared with a file that was written to and removed", script: `
		fallocate -l 1M pre; sync; cp --reflink=always pre other; head -c 65536 /dev/urandom | dd of=other bs=4096 seek=10 conv=notrunc status=none; sync; rm other`},
	{name: "preallocated space shared with one that is written to", script: `
		fallocate -l 1M pre; sync; btrfs subvolume snapshot . snap; head -c 65536 /dev/urandom | dd of=snap/pre bs=4096 seek=10 conv=notrunc status=none`},
	{name: "space behind the end of files", script: `
		echo x > a; fallocate -n -l 1M a; touch b; fallocate -n -o 2M -l 1M b; truncate -s 5000 c; fallocate -n -l 64K c; head -c 100000 /dev/urandom > d; sync; truncate -s 10001 d`},
	{name: "the same with explicit holes", mkfs: []string{"-O", "^no-holes"}, script: `
		echo x > a; fallocate -n -l 1M a; truncate -s 5000 c; fallocate -n -l 64K c; head -c 100000 /dev/urandom > d; sync; truncate -s 10001 d
		truncate -s 1M e; head -c 4096 /dev/urandom | dd of=e bs=4096 seek=100 conv=notrunc status=none; fallocate -p -o 0 -l 8192 d`},
	{name: "inline extents before others", mount: "compress-force=zstd", script: `
		head -c 3000 /dev/zero > a; sync; truncate -s 4096 a; head -c 90000 /dev/zero >> a; sync; head -c 2000 /dev/zero > b; sync; truncate -s 100000 b; sync; echo x >> b
		head -c 300000 /dev/zero > c; sync; truncate -s 5000 c; cp --reflink=always c e; btrfs filesystem defragment -czlib a c`},
	{name: "files without checksums", script: `
		touch a; chattr +C a; head -c 100000 /dev/urandom > a; sync; fallocate -l 1M a; btrfs subvolume snapshot . s; head -c 9000 /dev/urandom | dd of=s/a bs=4096 seek=3 conv=notrunc status=none
		mkdir d; chattr +C d; for i in 1 2 3; do head -c 50000 /dev/urandom > d/$i; cp --reflink=always d/$i d/c$i; done; for i in $(seq 0 2 20); do dd if=a of=d/1 bs=4096 count=1 seek=$i conv=notrunc status=none; done`},
	{name: "swap file", script: `touch swap; chattr +C swap; fallocate -l 4M swap; mkswap swap > /dev/null`},
	{name: "qgroups of subvolumes that are gone", mkfs: []string{"-R", "quota"}, script: `
		for i in 1 2 3; do btrfs subvolume create s$i; head -c 200000 /dev/urandom > s$i/f; done; btrfs subvolume snapshot s1 s4; sync
		btrfs subvolume delete -c s1 s2; btrfs filesystem sync .; btrfs subvolume sync .; sync`},
	{name: "a qgroup above others", mkfs: []string{"-R", "quota"}, script: `
		btrfs qgroup create 1/1 .; btrfs qgroup create 2/1 .; btrfs qgroup assign 1/1 2/1 .; btrfs subvolume create -i 1/1 a; btrfs subvolume create -i 1/1 b
		head -c 200000 /dev/urandom > a/f; cp --reflink=always a/f b/f; btrfs subvolume snapshot -i 1/1 a c; head -c 4096 /dev/urandom >> c/f; sync; rm a/f; sync; btrfs qgroup limit 10M 1/1 .`},
	{name: "received and changed afterwards", script: `
		btrfs subvolume create s; echo x > s/x; btrfs subvolume snapshot -r s r; mkdir to; btrfs send -q r | btrfs receive -q to; btrfs property set -f to/r ro false; echo y > to/r/y`},
	{name: "another default subvolume", script: `btrfs subvolume create s; echo x > s/x; btrfs subvolume set-default s; btrfs subvolume snapshot s t; btrfs subvolume snapshot s s/inner`},
	{name: "resized and converted", script: `
		head -c 20000000 /dev/urandom > a; sync; btrfs filesystem resize 400M .; btrfs balance start -f -mconvert=single -dconvert=dup . > /dev/null; btrfs filesystem resize max .; btrfs balance start -dconvert=single . > /dev/null`},
	{name: "many names that come and go", script: `mkdir d; for i in $(seq 90); do ln -s $i d/$i; mkfifo d/p$i; done; rm -r d; mkdir d; for i in $(seq 90); do mkdir d/$i; done; rmdir d/1? ; mv d/2 d/x2`},
	{name: "unnamed files", pending: true, mount: "commit=300", script: `
		python3 -c "
import ctypes, os
for i in range(20):
    f = os.open('.', os.O_TMPFILE | os.O_RDWR); os.write(f, b'x' * 20000)
    if i % 2: assert ctypes.CDLL(None).linkat(-100, b'/proc/self/fd/%d' % f, -100, b'linked%d' % i, 0x400) == 0
os.sync()"
		echo a > a; fsync a`},
	{name: "log of all kinds of changes", pending: true, mount: "commit=300", script: logScript},
	{name: "log with explicit holes", pending: true, mkfs: []string{"-O", "^no-holes"}, mount: "commit=300", script: logScript},
	{name: "log with compression", pending: true, mount: "commit=300,compress-force=lzo", script: logScript},
}

// logScript has data whose checksums are in the log, in the checksum tree, or
// nowhere because there is none.
const logScript = `
	mkdir d; for i in $(seq 40); do head -c $((i * 1000)) /dev/urandom > d/$i; done; head -c 300000 /dev/urandom > big; fallocate -l 1M pre; touch nocow; chattr +C nocow; head -c 100000 big > nocow; sync
	truncate -s 1M hole; dd if=big of=hole bs=4096 count=2 seek=100 conv=notrunc status=none; fsync hole
	fallocate -p -o 8192 -l 16384 big; dd if=big of=big bs=4096 count=1 seek=30 conv=notrunc status=none; fsync big; head -c 9000 big >> big; fsync big
	dd if=big of=pre bs=4096 count=5 seek=9 conv=notrunc status=none; fsync pre; dd if=big of=nocow bs=4096 count=3 conv=notrunc status=none; fallocate -l 200000 nocow; fsync nocow
	cp --reflink=always big clone; fsync clone; dd if=big of=clone bs=4096 count=1 seek=7 conv=notrunc status=none; fsync clone
	mv d/1 d/new; ln d/2 d/link; rm d/3; setfattr -n user.a -v b d/4; truncate -s 10 d/40; fsync d d/new d/2 d/4 d/40; head -c 5000000 /dev/zero > zeros; fsync zeros; rm zeros; fsync d; truncate -s 100000 d/5; fsync d/5; mkdir -p e/f/g; echo x > e/f/g/x; fsync e/f/g/x; ln -s x e/l; fsync e`

// TestNotDamage: no false alarm.
func TestNotDamage(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	for _, c := range notDamage {
		t.Run(c.name, func(t *testing.T) {
			img := oracle.Mkfs(t, 512*mib, c.mkfs...)
			m := oracle.Mount(t, c.mount, img)
			oracle.Run(t, "bash", "-e", "-c", "cd "+m.Dir+"\n"+fsync+c.script)
			if c.pending {
				img = oracle.CopyUnclean(t, img)
			}
			m.Unmount()
			r := checkImages(t, check.Options{VerifyData: true}, img)
			for i := range r.Findings {
				if f := &r.Findings[i]; f.Severity > check.Warning || f.Severity == check.Warning && f.Code != check.CodeFreeSpaceStale && f.Code != check.CodeCsumPrealloc {
					t.Error(f)
				}
			}
			if r.Has(check.CodeLogPending) != c.pending {
				t.Errorf("a log tree: %v, want %v", !c.pending, c.pending)
			}
		})
	}
}

// TestSeedIsNotDamage: blocks of the seed have its fsid and its chunk tree's
// UUID, and the sprout's device alone is not the whole filesystem.
func TestSeedIsNotDamage(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	seed, sprout := oracle.Mkfs(t, 512*mib), oracle.Sparse(t, 1, 512*mib)[0]
	m := oracle.Mount(t, "", seed)
	smallWorkload(t, m)
	m.Unmount()
	oracle.Run(t, "btrfstune", "-f", "-S", "1", seed)
	requireClean(t, checkImages(t, check.Options{VerifyData: true}, seed))
	oracle.Attached(t, []string{seed, sprout}, func(loops []string) {
		dir := filepath.Join(t.TempDir(), "mnt")
		oracle.Run(t, "bash", "-e", "-c", `mkdir "$3"; mount -t btrfs -o ro "$1" "$3"; trap 'umount "$3"' EXIT; btrfs device add -f "$2" "$3"; mount -o remount,rw "$3"
			cd "$3"; head -c 300000 /dev/urandom > new; rm data; echo x >> clone; btrfs subvolume snapshot . again; sync; cd /`, "bash", loops[0], loops[1], dir)
	})
	requireClean(t, checkImages(t, check.Options{VerifyData: true}, sprout, seed))
}
