package check_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/internal/oracle"
)

// checkImages runs the check on the members of one filesystem.
func checkImages(t testing.TB, o check.Options, images ...string) *check.Report {
	t.Helper()
	var devs []blockdev.Device
	for _, img := range images {
		d, err := blockdev.OpenFile(img, blockdev.FileOptions{ReadOnly: true, NoLock: true})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		devs = append(devs, d)
	}
	r, err := check.Run(context.Background(), devs, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// requireClean fails the test on anything that is worse than a note. What old
// versions of mkfs leave in the free-space tree is known to be harmless.
func requireClean(t testing.TB, r *check.Report) {
	t.Helper()
	for i := range r.Findings {
		if f := &r.Findings[i]; f.Severity > check.Note && f.Code != check.CodeFreeSpaceStale {
			t.Error(f)
		}
	}
	if !r.Complete || !r.SafeToWrite() {
		t.Error("not complete, or not safe to write")
	}
}

// workload makes files of all kinds, snapshots, reflinks, holes, deletions, and
// extents that outlive the files which made them.
func workload(t testing.TB, m *oracle.Mounted, nodeSize int) {
	t.Helper()
	d := m.Dir
	sh := func(script string) { oracle.Run(t, "bash", "-e", "-c", "cd "+d+"\n"+script) }
	sh("btrfs -q subvolume create sub || btrfs subvolume create sub")
	oracle.Populate(t, filepath.Join(d, "sub"), nodeSize)
	sh(`
		mkdir -p many/deep/er; for i in $(seq 400); do echo $i > many/file-with-a-rather-long-name-$i; done
		echo x > many/linked; for i in $(seq 150); do ln many/linked "many/deep/another-long-name-of-the-same-file-$i"; done
		head -c 3000000 /dev/urandom > big; cp --reflink=always big clone; cp --reflink=always big clone2
		sync
		for i in 1 5 9 13 200 300; do head -c 4096 /dev/urandom | dd of=clone bs=4096 seek=$i conv=notrunc status=none; done
		fallocate -l 1048576 pre; dd if=big of=pre bs=4096 count=3 seek=7 conv=notrunc status=none; cp --reflink=always pre preclone
		fallocate -p -o 65536 -l 131072 clone2; truncate -s 10M sparse; echo end >> sparse; ln -s many/linked link; mkfifo pipe
		touch nocow; chattr +C nocow; head -c 200000 big > nocow; dd if=big of=nocow bs=4096 count=2 seek=3 conv=notrunc status=none
		for i in $(seq 0 2 600); do dd if=big of=frag bs=4096 count=1 seek=$i skip=$i conv=notrunc status=none; done`)
	sh(`
		btrfs subvolume snapshot . snap1; btrfs subvolume snapshot -r sub snap2; sync
		rm -r many/deep; rm big; echo changed > many/linked; mv many/file-with-a-rather-long-name-7 sub/moved 2>/dev/null || true
		for i in $(seq 1 3 400); do rm -f many/file-with-a-rather-long-name-$i; done
		btrfs subvolume snapshot snap1 snap3; echo y > snap3/y; rm -r snap3/many; btrfs subvolume create sub/nested; cp --reflink=always clone sub/nested/c
		setfattr -n user.a -v b clone; setfattr -n user.long -v $(head -c 900 /dev/zero | tr '\0' x) clone; sync
		btrfs subvolume delete snap2; btrfs subvolume snapshot sub/nested snap4; sync`)
}

type kernelCase struct {
	name     string
	devices  int
	size     int64
	mkfs     []string
	mount    string
	nodeSize int
	after    string // shell, in the mounted filesystem
}

const mib = 1 << 20

var kernelCases = []kernelCase{
	{name: "defaults", after: "btrfs balance start --full-balance . > /dev/null"},
	{name: "as old as can be", size: 3072 * mib, mkfs: []string{"-O", "^no-holes,^skinny-metadata,^extref", "-R", "^free-space-tree"}},
	{name: "compressed", mount: "compress-force=zstd"},
	{name: "lzo", mount: "compress=lzo", mkfs: []string{"-O", "^no-holes"}},
	{name: "xxhash", mkfs: []string{"--csum", "xxhash"}},
	{name: "nodes of 4 KiB, sha256", nodeSize: 4096, mkfs: []string{"-n", "4096", "--csum", "sha256"}},
	{name: "nodes of 64 KiB, blake2", nodeSize: 65536, mkfs: []string{"-n", "65536", "--csum", "blake2"}},
	{name: "mixed groups", size: 1024 * mib, nodeSize: 4096, mkfs: []string{"-M"}},
	{name: "single", mkfs: []string{"-m", "single", "-d", "single"}, after: "btrfs balance start -m . > /dev/null"},
	{name: "quotas", mkfs: []string{"-R", "quota"}, after: "btrfs quota rescan -w .; btrfs qgroup create 1/5 .; btrfs qgroup assign 0/256 1/5 . || true; btrfs quota rescan -w .; sync; echo more > more"},
	{name: "raid1", devices: 2, mkfs: []string{"-m", "raid1", "-d", "raid1"}},
	{name: "raid0", devices: 3, mkfs: []string{"-m", "raid1", "-d", "raid0"}},
	{name: "raid10", devices: 4, mkfs: []string{"-m", "raid10", "-d", "raid10"}},
	{name: "raid5", devices: 3, mkfs: []string{"-m", "raid5", "-d", "raid5"}},
	{name: "raid6", devices: 4, mkfs: []string{"-m", "raid1c4", "-d", "raid6"}},
	{name: "raid1c3", devices: 3, mkfs: []string{"-m", "raid1c3", "-d", "dup"}},
}

func (k *kernelCase) make(t testing.TB) []string {
	t.Helper()
	oracle.Need(t, oracle.Mounting...)
	if k.size == 0 {
		k.size = 512 * mib
	}
	if k.nodeSize == 0 {
		k.nodeSize = 16384
	}
	return oracle.MkfsN(t, max(1, k.devices), k.size, k.mkfs...)
}

func TestKernelMadeFilesystemsAreClean(t *testing.T) {
	for _, k := range kernelCases {
		t.Run(k.name, func(t *testing.T) {
			images := k.make(t)
			requireClean(t, checkImages(t, check.Options{}, images...))
			m := oracle.Mount(t, k.mount, images...)
			m.AllowLog("space cache v1 is being deprecated", "the old form is what is wanted")
			workload(t, m, k.nodeSize)
			if k.after != "" {
				oracle.Run(t, "bash", "-c", "cd "+m.Dir+"\n"+k.after)
			}
			m.Unmount()
			r := checkImages(t, check.Options{}, images...)
			requireClean(t, r)
			if r.Stats.Inodes < 500 || r.Stats.Extents < 20 || r.Stats.FileExtents < 50 {
				t.Errorf("looked at too little: %+v", r.Stats)
			}
			requireClean(t, checkImages(t, check.Options{VerifyData: true}, images...))
			if sameInTinyMemory(t, r, images...).Stats.Spilled == 0 {
				t.Error("nothing was spilled")
			}
		})
	}
}

// TestUncleanShutdown: a log tree, orphans and a half-deleted subvolume are no
// damage.
func TestUncleanShutdown(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	img := oracle.Mkfs(t, 512*mib)
	m := oracle.Mount(t, "commit=300", img)
	d := m.Dir
	oracle.Run(t, "bash", "-e", "-c", "cd "+d+`
		btrfs subvolume create s; for i in $(seq 3000); do echo $i > s/file-with-a-long-name-$i; done; sync
		for i in $(seq 20); do head -c 20000 /dev/urandom > synced$i; python3 -c "import os,sys; f=os.open(sys.argv[1], os.O_RDONLY); os.fsync(f)" synced$i; done`)
	f, err := os.Create(filepath.Join(d, "open"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(oracle.Noise(1, 100000)); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(f.Name()); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "btrfs", "subvolume", "delete", filepath.Join(d, "s"))
	m.Sync()
	oracle.Run(t, "bash", "-e", "-c", "cd "+d+`
		head -c 9000 /dev/urandom > late; python3 -c "import os,sys; f=os.open(sys.argv[1], os.O_RDONLY); os.fsync(f)" late`)
	unclean := oracle.CopyUnclean(t, img)
	f.Close()
	m.Unmount()
	r := checkImages(t, check.Options{}, unclean)
	requireClean(t, r)
	if !r.Has(check.CodeLogPending) {
		var codes []string
		for i := range r.Findings {
			codes = append(codes, fmt.Sprint(&r.Findings[i]))
		}
		t.Errorf("no log tree was noticed: %s", strings.Join(codes, "\n"))
	}
}

// TestMissingDevice: with redundancy nothing but the device is missed; without,
// what only it has.
func TestMissingDevice(t *testing.T) {
	k := kernelCase{devices: 3, mkfs: []string{"-m", "raid1", "-d", "raid5"}}
	images := k.make(t)
	m := oracle.Mount(t, "", images...)
	smallWorkload(t, m)
	m.Unmount()
	if r := checkImages(t, check.Options{VerifyData: true}, images...); r.Damaged() {
		t.Fatalf("not clean to begin with: %v", r.Findings)
	}
	r := checkImages(t, check.Options{Degraded: true, VerifyData: true}, images[:2]...)
	if r.Damaged() || !r.Has(check.CodeDeviceMissing) {
		t.Errorf("%v", r.Findings)
	}
	if r = checkImages(t, check.Options{}, images[:2]...); !r.Damaged() {
		t.Error("a missing device is no damage without Degraded")
	}
}
