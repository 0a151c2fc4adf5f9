package check_test

import (
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/volume"
)

// editable is a small filesystem in memory with one copy of metadata.
func editable(t *testing.T) *nodeEditor {
	t.Helper()
	dev := inMemory(t, smallImage(t, "-m", "single"))
	v, err := volume.Open(t.Context(), []blockdev.Device{dev}, volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &nodeEditor{t, dev, v}
}

// spoilNode makes a tree block unreadable.
func (e *nodeEditor) spoilNode(a disk.Logical) {
	e.t.Helper()
	at, err := e.vol.Map(a, uint64(e.vol.Super().NodeSize))
	if err != nil {
		e.t.Fatal(err)
	}
	for _, p := range at {
		if _, err := e.dev.WriteAt(make([]byte, e.vol.Super().NodeSize), int64(p.Off)); err != nil {
			e.t.Fatal(err)
		}
	}
}

// editSuper changes one copy of the superblock, or all with mirror -1.
func (e *nodeEditor) editSuper(mirror int, change func(b []byte)) {
	e.t.Helper()
	for m := range 2 {
		if mirror >= 0 && m != mirror {
			continue
		}
		b := make([]byte, disk.SuperInfoSize)
		if _, err := e.dev.ReadAt(b, int64(disk.SuperOffset(m))); err != nil {
			e.t.Fatal(err)
		}
		change(b)
		sum := csum.Sum(e.vol.Super().CsumType, b[disk.CsumSize:])
		copy(b, sum[:])
		if _, err := e.dev.WriteAt(b, int64(disk.SuperOffset(m))); err != nil {
			e.t.Fatal(err)
		}
	}
}

// wrongLink changes the link count of some file, as something else to be found.
func (e *nodeEditor) wrongLink() {
	e.t.Helper()
	done := false
	e.leaves(e.rootOf(disk.TreeFS), func(a disk.Logical, n disk.Node) {
		for i := range n.NrItems() {
			if k := n.Key(i); k.Type == disk.KeyInodeItem && k.ObjectID > disk.RootDirObjectID && !done {
				done = true
				binary.LittleEndian.PutUint32(n[dataOf(n, i)+40:], 77)
				e.write(a, n)
			}
		}
	})
	if !done {
		e.t.Fatal("no file")
	}
}

func (e *nodeEditor) rootOf(tree disk.ObjectID) (at disk.Logical) {
	e.t.Helper()
	e.leaves(e.vol.Super().Root, func(_ disk.Logical, n disk.Node) {
		for i := range n.NrItems() {
			if k := n.Key(i); k.Type == disk.KeyRootItem && k.ObjectID == tree {
				r, err := disk.ParseRootItem(n.ItemData(i))
				if err != nil {
					e.t.Fatal(err)
				}
				at = r.Bytenr
			}
		}
	})
	return at
}

// TestDamagedChunkItemHidesNothingElse: the rest is checked without the chunk.
func TestDamagedChunkItemHidesNothingElse(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(item []byte)
	}{
		{"length", func(b []byte) { b[0] |= 1 }},
		{"type", func(b []byte) { b[24] = 0 }},
		{"number of stripes", func(b []byte) { b[44] = 9 }},
		{"device", func(b []byte) { b[48] = 9 }},
		{"place", func(b []byte) { b[48+8+6] = 9 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := editable(t)
			e.wrongLink()
			done := false
			e.leaves(e.vol.Super().ChunkRoot, func(a disk.Logical, n disk.Node) {
				for i := range n.NrItems() {
					d := dataOf(n, i)
					if n.Key(i).Type == disk.KeyChunkItem && binary.LittleEndian.Uint64(n[d+24:])&uint64(disk.BlockGroupData) != 0 && !done {
						done = true
						c.spoil(n[d : d+n.ItemSize(i)])
						e.write(a, n)
					}
				}
			})
			if !done {
				t.Fatal("no chunk of data")
			}
			r := checkDevice(t, e.dev)
			if !r.Has(check.CodeChunk) || r.Complete || !r.Has(check.CodeInodeNlink) || r.Stats.Nodes < 10 {
				t.Errorf("complete %v, %d tree blocks, %v", r.Complete, r.Stats.Nodes, r.Findings)
			}
			for _, code := range []check.Code{check.CodeExtentPlace, check.CodeBlockGroup, check.CodeCsumUnused, check.CodeCsumMissing, check.CodeExtentUnused, check.CodeDevExtent} {
				if r.Has(code) {
					t.Errorf("%s follows from the chunk alone: %v", code, r.Findings)
				}
			}
		})
	}
}

// TestUnreadableChunkTree: what is wrong is said, and that nothing else is known.
func TestUnreadableChunkTree(t *testing.T) {
	e := editable(t)
	e.spoilNode(e.vol.Super().ChunkRoot)
	if r := checkDevice(t, e.dev); !r.Has(check.CodeChunk) || r.Complete {
		t.Errorf("complete %v, %v", r.Complete, r.Findings)
	}
}

// TestOtherSuperblockIsUsed: the first copy has bad system chunks, or names a
// chunk root that is none, and the second one is good.
func TestOtherSuperblockIsUsed(t *testing.T) {
	e := editable(t)
	e.wrongLink()
	const stripes = 811 + 17 + 44 // number of stripes of the first system chunk
	e.editSuper(0, func(b []byte) { b[stripes] = 0 })
	r := checkDevice(t, e.dev)
	if !r.Complete || !r.Has(check.CodeSuperCopy) || !r.Has(check.CodeInodeNlink) {
		t.Errorf("complete %v, %v", r.Complete, r.Findings)
	}
	e.editSuper(1, func(b []byte) { b[stripes] = 0 })
	if r = checkDevice(t, e.dev); r.Complete || !r.Damaged() || r.Stats.Nodes > 0 {
		t.Errorf("both copies: complete %v, %v", r.Complete, r.Findings)
	}
	e = editable(t)
	e.wrongLink()
	e.editSuper(0, func(b []byte) { binary.LittleEndian.PutUint64(b[88:], uint64(e.vol.Super().Root)) })
	if r = checkDevice(t, e.dev); r.Complete || !r.Has(check.CodeChunk) || !r.Has(check.CodeSuper) || !r.Has(check.CodeInodeNlink) || r.Has(check.CodeNodeUnreadable) {
		t.Errorf("another chunk root: complete %v, %v", r.Complete, r.Findings)
	}
}

// TestLostRootTree: the backup roots that can be read are named.
func TestLostRootTree(t *testing.T) {
	e := editable(t)
	e.spoilNode(e.vol.Super().Root)
	r := checkDevice(t, e.dev)
	if !r.Has(check.CodeNodeUnreadable) || !r.Has(check.CodeTreeMissing) || !r.Has(check.CodeBackupRoot) || r.SafeToWrite() {
		t.Errorf("%v", r.Findings)
	}
	for i := range r.Findings {
		if f := &r.Findings[i]; f.Code == check.CodeBackupRoot && !strings.Contains(f.Means, "rescue=usebackuproot") {
			t.Error(f)
		}
	}
}

// TestRandomSuperblocksDoNoHarm overwrites random bytes of the superblock and of
// the chunk root, checksums right, and demands an end in time and no panic: a
// damaged chunk tree is gone past, so more of what is hostile is looked at.
func TestRandomSuperblocksDoNoHarm(t *testing.T) {
	e := editable(t)
	rng := rand.New(rand.NewPCG(5, 6))
	root := e.vol.Super().ChunkRoot
	first := make([]byte, disk.SuperInfoSize)
	if _, err := e.dev.ReadAt(first, disk.SuperInfoOffset); err != nil {
		t.Fatal(err)
	}
	node := e.read(root)
	for range 300 {
		if rng.IntN(2) == 0 {
			e.editSuper(0, func(b []byte) {
				for range 1 + rng.IntN(4) {
					// Half of the changes in the system chunks.
					o := disk.CsumSize + rng.IntN(800)
					if rng.IntN(2) == 0 {
						o = 811 + rng.IntN(150)
					}
					b[o] = byte(rng.Uint32())
				}
			})
		}
		n := append(disk.Node(nil), node...)
		for range rng.IntN(4) {
			o := disk.CsumSize + rng.IntN(300)
			if rng.IntN(2) == 0 {
				o = len(n) - 1 - rng.IntN(700)
			}
			n[o] = byte(rng.Uint32())
		}
		e.write(root, n)
		start := time.Now()
		checkDevice(t, e.dev)
		if d := time.Since(start); d > 10*time.Second {
			t.Errorf("took %v", d)
		}
		e.write(root, node)
		if _, err := e.dev.WriteAt(first, disk.SuperInfoOffset); err != nil {
			t.Fatal(err)
		}
	}
	if r := checkDevice(t, e.dev); r.Damaged() || !r.Complete {
		t.Errorf("after all was put back: %v", r.Findings)
	}
}
