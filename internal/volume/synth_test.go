package volume

import (
	"testing"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/csum"
)

// synth is a filesystem made by hand: four devices in memory, superblocks, and
// a chunk tree of two levels. There is nothing else in it. Tests change it
// before write, in ways that no kernel would.
type synth struct {
	sb     disk.Superblock
	chunks []disk.ChunkMapping
	root   disk.Node
	leaves []disk.Node
	mem    []*blockdev.Memory
}

const (
	synthDevices  = 4
	synthSize     = 64 << 20
	synthNodeSize = 4096
	synthSystem   = disk.Logical(1 << 20)
	synthRoot     = synthSystem
	synthLeaf     = synthSystem + synthNodeSize // and on
)

func synthUUID(id disk.DevID) disk.UUID { return disk.UUID{0xdd, byte(id)} }

// newSynth has one chunk of every profile behind the system chunk.
func newSynth() *synth {
	s := &synth{sb: disk.Superblock{
		FSID: disk.UUID{0xf5}, Generation: 7, ChunkRootGen: 7, Root: 64 << 20, ChunkRoot: synthRoot, ChunkRootLevel: 1,
		TotalBytes: synthDevices * synthSize, BytesUsed: 1 << 20, RootDirObjectID: disk.RootTreeDir, NumDevices: synthDevices,
		SectorSize: 4096, NodeSize: synthNodeSize, LeafSize: synthNodeSize, StripeSize: 4096, Flags: disk.SuperFlagWritten,
		IncompatFlags: disk.IncompatMixedBackref | disk.IncompatExtendedIref | disk.IncompatRAID56 | disk.IncompatRAID1C34 | disk.IncompatSkinnyMetadata,
	}}
	phys := [synthDevices + 1]uint64{}
	for i := range phys {
		phys[i] = disk.BlockReservedStart
	}
	at := synthSystem
	add := func(flags disk.BlockGroupFlags, length uint64) {
		p := disk.ProfileOf(flags)
		n := synthDevices
		if p.DevsMax != 0 {
			n = p.DevsMax * p.DevStripes
		}
		c := disk.ChunkMapping{Logical: at, Chunk: disk.Chunk{
			Length: length * uint64(p.DataStripes(n)), Owner: disk.TreeExtent, StripeLen: disk.StripeLen, Type: flags,
			IOAlign: disk.StripeLen, IOWidth: disk.StripeLen, SectorSize: 4096, SubStripes: uint16(p.SubStripes),
		}}
		for i := range n {
			id := disk.DevID(i%synthDevices + 1)
			if p.DevStripes > 1 {
				id = 1
			}
			c.Stripes = append(c.Stripes, disk.Stripe{DevID: id, Offset: phys[id], DevUUID: synthUUID(id)})
			phys[id] += length
		}
		s.chunks = append(s.chunks, c)
		at = c.End()
	}
	add(disk.BlockGroupSystem|disk.BlockGroupRAID1, 1<<20)
	for _, p := range disk.Profiles {
		add(disk.BlockGroupData|p.Flag, 256<<10)
	}
	for range synthDevices {
		s.mem = append(s.mem, blockdev.NewMemory(synthSize))
	}
	s.build()
	return s
}

// build makes the tree's nodes and the system chunk array from the chunks. The
// first leaf has the device items and half of the chunks.
func (s *synth) build() {
	var keys []disk.Key
	var data [][]byte
	for i := range synthDevices {
		id := disk.DevID(i + 1)
		item := disk.DevItem{DevID: id, TotalBytes: synthSize, BytesUsed: 1 << 20, IOAlign: 4096, IOWidth: 4096, SectorSize: 4096, UUID: synthUUID(id), FSID: s.sb.FSID}
		keys = append(keys, disk.Key{ObjectID: disk.DevItemsObjectID, Type: disk.KeyDevItem, Offset: uint64(id)})
		data = append(data, item.Append(nil))
	}
	s.sb.SysChunkArray = nil
	for i := range s.chunks {
		c := &s.chunks[i]
		k := disk.Key{ObjectID: disk.FirstChunkTree, Type: disk.KeyChunkItem, Offset: uint64(c.Logical)}
		keys, data = append(keys, k), append(data, c.Append(nil))
		if c.Type&disk.BlockGroupSystem != 0 {
			s.sb.SysChunkArray = c.Append(k.Append(s.sb.SysChunkArray))
		}
	}
	half := synthDevices + len(s.chunks)/2
	s.leaves = []disk.Node{s.leaf(synthLeaf, keys[:half], data[:half]), s.leaf(synthLeaf+synthNodeSize, keys[half:], data[half:])}
	s.root = make(disk.Node, synthNodeSize)
	s.root.InitHeader(synthRoot, s.sb.FSID, disk.UUID{}, 7, disk.TreeChunk, 1)
	for i, l := range s.leaves {
		s.root.SetPtr(i, l.Key(0), l.Bytenr(), 7)
	}
	s.root.SetNrItems(len(s.leaves))
}

func (s *synth) leaf(at disk.Logical, keys []disk.Key, data [][]byte) disk.Node {
	n := make(disk.Node, synthNodeSize)
	n.InitHeader(at, s.sb.FSID, disk.UUID{}, 7, disk.TreeChunk, 0)
	end := disk.LeafDataSize(len(n))
	for i, k := range keys {
		end -= len(data[i])
		n.SetItem(i, k, end, len(data[i]))
		copy(n[disk.HeaderSize+end:], data[i])
	}
	n.SetNrItems(len(keys))
	return n
}

// write puts superblocks and nodes on the devices, with right checksums.
func (s *synth) write(t testing.TB) []blockdev.Device {
	t.Helper()
	put := func(id disk.DevID, off uint64, b []byte) {
		if _, err := s.mem[id-1].WriteAt(b, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range append([]disk.Node{s.root}, s.leaves...) {
		sum := csum.Sum(s.sb.CsumType, n.Body())
		copy(n.Csum(), sum[:])
		// The place is the one that the unchanged system chunk gives, whatever
		// the node says.
		off := disk.BlockReservedStart + uint64(i)*synthNodeSize
		put(1, off, n)
		put(2, off, n)
	}
	var out []blockdev.Device
	for i, m := range s.mem {
		sb := s.sb
		id := disk.DevID(i + 1)
		sb.Bytenr = disk.SuperInfoOffset
		sb.DevItem = disk.DevItem{DevID: id, TotalBytes: synthSize, UUID: synthUUID(id), FSID: sb.FSID}
		b, err := sb.Encode()
		if err != nil {
			t.Fatal(err)
		}
		sum := csum.Sum(sb.CsumType, b[disk.CsumSize:])
		copy(b, sum[:])
		put(id, disk.SuperInfoOffset, b)
		out = append(out, m)
	}
	return out
}
