package check_test

import (
	"encoding/binary"
	"strings"
	"testing"

	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
	"gobtrfs/internal/volume"
)

// TestLogTreeIsJudged changes one thing in a log tree at a time.
func TestLogTreeIsJudged(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	img := oracle.Mkfs(t, 300*mib, "-m", "single")
	m := oracle.Mount(t, "commit=300", img)
	oracle.Run(t, "bash", "-e", "-c", "cd "+m.Dir+"\n"+fsync+`
		mkdir d; head -c 300000 /dev/urandom > old; sync
		head -c 50000 /dev/urandom > new; fsync new; for i in 0 2 4 6; do dd if=new of=new bs=4096 seek=$i count=1 conv=notrunc status=none; fsync new; done; touch d/a d/b; fsync d`)
	img = oracle.CopyUnclean(t, img)
	m.Unmount()
	dev := inMemory(t, img)
	v, err := volume.Open(t.Context(), []blockdev.Device{dev}, volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e := &nodeEditor{t, dev, v}
	if r := checkDevice(t, dev); r.Damaged() || !r.Has(check.CodeLogPending) {
		t.Fatalf("to begin with: %v", r.Findings)
	}
	var log, data disk.Logical
	e.leaves(v.Super().LogRoot, func(_ disk.Logical, n disk.Node) {
		r, err := disk.ParseRootItem(n.ItemData(0))
		if err != nil {
			t.Fatal(err)
		}
		log = r.Bytenr
	})
	e.leaves(e.rootOf(disk.TreeFS), func(_ disk.Logical, n disk.Node) {
		for i := range n.NrItems() {
			if n.Key(i).Type == disk.KeyExtentData {
				if f, err := disk.ParseFileExtent(n.ItemData(i)); err == nil {
					data = f.DiskBytenr
				}
			}
		}
	})
	le := binary.LittleEndian
	for _, c := range []struct {
		name, want string
		typ        disk.KeyType
		nth        int // of the items of this type; -1: the last
		change     func(header, item []byte)
	}{
		{"checksums elsewhere", "has no checksums", disk.KeyExtentCsum, -1, func(h, _ []byte) { le.PutUint64(h[9:], le.Uint64(h[9:])+1<<24) }},
		{"data on data of the last commit", "stand on the extent", disk.KeyExtentData, 0, func(_, b []byte) { le.PutUint64(b[21:], uint64(data)+4096) }},
		{"data on a tree block", "is not in a chunk of data", disk.KeyExtentData, 0, func(_, b []byte) { le.PutUint64(b[21:], uint64(v.Super().Root)) }},
		{"data nowhere", "is not in a chunk of data", disk.KeyExtentData, 0, func(_, b []byte) { le.PutUint64(b[21:], 1<<50) }},
		{"data on data of the log", "two extents of a log overlap", disk.KeyExtentData, 0, func(_, b []byte) { le.PutUint64(b[8:], 8192); le.PutUint64(b[29:], 8192) }},
		{"file extents that overlap", "logged file extents overlap", disk.KeyExtentData, 0, func(_, b []byte) {
			for _, o := range []int{8, 29, 45} { // ram_bytes, disk_num_bytes, num_bytes
				le.PutUint64(b[o:], 16384)
			}
		}},
		{"a range of names", "ends before it begins", disk.KeyDirLogIndex, 0, func(h, b []byte) { le.PutUint64(b, 1); le.PutUint64(h[9:], 2) }},
	} {
		n, at := e.read(log), []int(nil)
		if !n.IsLeaf() {
			t.Fatal("the log is not one leaf")
		}
		old := append(disk.Node(nil), n...)
		for i := range n.NrItems() {
			if n.Key(i).Type == c.typ {
				at = append(at, i)
			}
		}
		if len(at) == 0 {
			t.Errorf("%s: no item of type %v", c.name, c.typ)
			continue
		}
		i := at[(c.nth+len(at))%len(at)]
		d := dataOf(n, i)
		c.change(n[disk.HeaderSize+i*disk.ItemHeaderSize:], n[d:d+n.ItemSize(i)])
		e.write(log, n)
		r := checkDevice(t, dev)
		found := false
		for i := range r.Findings {
			f := &r.Findings[i]
			found = found || f.Code == check.CodeLog && strings.Contains(f.What, c.want)
		}
		if !found {
			t.Errorf("%s: %v", c.name, r.Findings)
		}
		e.write(log, old)
	}
	if r := checkDevice(t, dev); r.Damaged() {
		t.Errorf("after all was put back: %v", r.Findings)
	}
}
