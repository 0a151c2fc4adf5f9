package check_test

import (
	"context"
	"encoding/binary"
	"strings"
	"testing"

	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/oracle"
	"gobtrfs/internal/volume"
)

// nodeEditor changes tree blocks of a filesystem with one copy of metadata.
type nodeEditor struct {
	t   *testing.T
	dev blockdev.Device
	vol *volume.Volume
}

func (e *nodeEditor) read(a disk.Logical) disk.Node {
	e.t.Helper()
	n := disk.Node(make([]byte, e.vol.Super().NodeSize))
	if err := e.vol.ReadNode(e.t.Context(), a, n, nil); err != nil {
		e.t.Fatal(err)
	}
	return n
}

func (e *nodeEditor) write(a disk.Logical, n disk.Node) {
	e.t.Helper()
	sum := csum.Sum(e.vol.Super().CsumType, n[disk.CsumSize:])
	copy(n, sum[:])
	at, err := e.vol.Map(a, uint64(len(n)))
	if err != nil || len(at) != 1 {
		e.t.Fatal(at, err)
	}
	if _, err := e.dev.WriteAt(n, int64(at[0].Off)); err != nil {
		e.t.Fatal(err)
	}
}

// leaves calls do for the leaves of a tree, with the addresses.
func (e *nodeEditor) leaves(a disk.Logical, do func(a disk.Logical, n disk.Node)) {
	n := e.read(a)
	if n.IsLeaf() {
		do(a, n)
		return
	}
	for i := range n.NrItems() {
		e.leaves(n.BlockPtr(i), do)
	}
}

// dataOf is where the data of an item begins in its leaf.
func dataOf(n disk.Node, i int) int { return disk.HeaderSize + n.ItemOffset(i) }

// stripeEntry is an item of the raid-stripe-tree.
type stripeEntry struct {
	start, length uint64
	strides       []disk.RaidStride
}

// setEntries makes a leaf hold these entries and nothing else.
func (e *nodeEditor) setEntries(a disk.Logical, list []stripeEntry) {
	n := e.read(a)
	le := binary.LittleEndian
	clear(n[disk.HeaderSize:])
	le.PutUint64(n[88:], uint64(disk.TreeRaidStripe))
	le.PutUint32(n[96:], uint32(len(list)))
	end := len(n) - disk.HeaderSize
	for i, x := range list {
		end -= 16 * len(x.strides)
		h := n[disk.HeaderSize+i*disk.ItemHeaderSize:]
		le.PutUint64(h, x.start)
		h[8] = byte(disk.KeyRaidStripe)
		le.PutUint64(h[9:], x.length)
		le.PutUint32(h[17:], uint32(end))
		le.PutUint32(h[21:], uint32(16*len(x.strides)))
		for j, s := range x.strides {
			le.PutUint64(n[disk.HeaderSize+end+16*j:], uint64(s.DevID))
			le.PutUint64(n[disk.HeaderSize+end+16*j+8:], s.Physical)
		}
	}
	e.write(a, n)
}

// stripeTreeImage is a filesystem with data in DUP and a raid-stripe-tree that
// says what the chunks would say. Neither the kernel here nor mkfs makes such a
// tree, so the UUID tree is turned into one.
func stripeTreeImage(t *testing.T) (e *nodeEditor, leaf disk.Logical, entries []stripeEntry) {
	t.Helper()
	oracle.Need(t, oracle.Mounting...)
	img := oracle.Mkfs(t, 300*mib, "-d", "dup", "-m", "single", "-R", "^free-space-tree")
	m := oracle.Mount(t, "", img)
	m.AllowLog("space cache v1 is being deprecated", "the old form is what is wanted")
	oracle.Run(t, "bash", "-e", "-c", "cd "+m.Dir+`
		for i in 1 2 3; do head -c 200000 /dev/urandom > data$i; sync; done; fallocate -l 65536 pre; touch nocow; chattr +C nocow; head -c 20000 data1 > nocow`)
	m.Unmount()
	dev := inMemory(t, img)
	vol, err := volume.Open(t.Context(), []blockdev.Device{dev}, volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e = &nodeEditor{t, dev, vol}
	le := binary.LittleEndian
	var extents disk.Logical
	e.leaves(vol.Super().Root, func(a disk.Logical, n disk.Node) {
		for i := range n.NrItems() {
			k := n.Key(i)
			if k.Type != disk.KeyRootItem {
				continue
			}
			r, err := disk.ParseRootItem(n.ItemData(i))
			if err != nil {
				t.Fatal(err)
			}
			switch k.ObjectID {
			case disk.TreeExtent:
				extents = r.Bytenr
			case disk.TreeUUID:
				leaf = r.Bytenr
				le.PutUint64(n[disk.HeaderSize+i*disk.ItemHeaderSize:], uint64(disk.TreeRaidStripe))
				e.write(a, n)
			}
		}
	})
	e.leaves(extents, func(a disk.Logical, n disk.Node) {
		for i := range n.NrItems() {
			k, b := n.Key(i), dataOf(n, i)
			switch {
			case k.Type == disk.KeyMetadataItem && disk.Logical(k.ObjectID) == leaf:
				le.PutUint64(n[b+25:], uint64(disk.TreeRaidStripe))
				e.write(a, n)
			case k.Type == disk.KeyExtentItem && le.Uint64(n[b+16:])&disk.ExtentFlagData != 0:
				entries = append(entries, entryFor(t, vol, uint64(k.ObjectID), k.Offset))
			}
		}
	})
	sb := vol.Super().Clone()
	sb.IncompatFlags |= disk.IncompatRaidStripeTree
	sb.UUIDTreeGeneration = 0
	b, err := sb.Encode()
	if err != nil {
		t.Fatal(err)
	}
	sum := csum.Sum(sb.CsumType, b[disk.CsumSize:])
	copy(b, sum[:])
	if _, err := dev.WriteAt(b, disk.SuperInfoOffset); err != nil {
		t.Fatal(err)
	}
	return e, leaf, entries
}

// entryFor is the entry that says what the chunk says.
func entryFor(t *testing.T, v *volume.Volume, start, length uint64) stripeEntry {
	t.Helper()
	ch, ok := v.Chunk(disk.Logical(start))
	if ch == nil {
		t.Fatal(ok)
	}
	x := stripeEntry{start: start, length: length}
	for _, s := range ch.Stripes {
		x.strides = append(x.strides, disk.RaidStride{DevID: s.DevID, Physical: s.Offset + start - uint64(ch.Logical)})
	}
	return x
}

// TestRaidStripeTreeIsJudged spoils the raid-stripe-tree in one way after the
// other.
func TestRaidStripeTreeIsJudged(t *testing.T) {
	e, leaf, entries := stripeTreeImage(t)
	if len(entries) < 4 {
		t.Fatalf("%d extents", len(entries))
	}
	run := func(list []stripeEntry, o check.Options) *check.Report {
		e.setEntries(leaf, list)
		r, err := check.Run(context.Background(), []blockdev.Device{e.dev}, o)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := run(entries, check.Options{VerifyData: true})
	requireClean(t, r)
	if r.Stats.Verified < 1200000 {
		t.Errorf("%d bytes of data verified", r.Stats.Verified)
	}
	clone := func() []stripeEntry {
		out := make([]stripeEntry, len(entries))
		for i, x := range entries {
			out[i] = stripeEntry{x.start, x.length, append([]disk.RaidStride(nil), x.strides...)}
		}
		return out
	}
	two := clone()
	two[0].length = 8192
	rest := entryFor(t, e.vol, entries[0].start+8192, entries[0].length-8192)
	requireClean(t, run(append([]stripeEntry{two[0], rest}, two[1:]...), check.Options{}))
	for _, c := range []struct {
		name, want string
		spoil      func(l []stripeEntry) []stripeEntry
	}{
		{"an entry is missing", "does not say where", func(l []stripeEntry) []stripeEntry { return l[1:] }},
		{"an entry is too short", "does not say where", func(l []stripeEntry) []stripeEntry { l[0].length -= 4096; return l }},
		{"an entry is too long", "overlaps the one before", func(l []stripeEntry) []stripeEntry { l[0].length += 4096; return l }},
		{"the last is too long", "there is no data extent", func(l []stripeEntry) []stripeEntry { l[len(l)-1].length += 4096; return l }},
		{"an entry of half a sector", "not whole sectors", func(l []stripeEntry) []stripeEntry { l[0].length -= 512; return l }},
		{"an entry outside all chunks", "is in no chunk", func(l []stripeEntry) []stripeEntry {
			l[len(l)-1].start = 1 << 40
			return l
		}},
		{"a place on another device", "outside its chunk's stripes", func(l []stripeEntry) []stripeEntry { l[0].strides[1].DevID = 7; return l }},
		{"a place outside", "outside its chunk's stripes", func(l []stripeEntry) []stripeEntry { l[0].strides[1].Physical += 1 << 30; return l }},
		{"one place", "number of places", func(l []stripeEntry) []stripeEntry { l[0].strides = l[0].strides[:1]; return l }},
		{"the place of another entry", "use the same place", func(l []stripeEntry) []stripeEntry { l[0].strides[1] = l[1].strides[1]; return l }},
		{"the same place twice", "use the same place", func(l []stripeEntry) []stripeEntry { l[0].strides[1] = l[0].strides[0]; return l }},
	} {
		r := run(c.spoil(clone()), check.Options{})
		found := false
		for i := range r.Findings {
			f := &r.Findings[i]
			found = found || f.Code == check.CodeRaidStripe && strings.Contains(f.What, c.want)
		}
		if !found {
			t.Errorf("%s: %v", c.name, r.Findings)
		}
	}
	wrong := clone()
	wrong[0].strides[1].Physical += 4096
	if r := run(wrong, check.Options{VerifyData: true}); !r.Damaged() {
		t.Error("a place with other bytes is not found by reading the data")
	}
}
