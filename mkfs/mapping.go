package mkfs

import (
	"cmp"
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// place is a piece of a device.
type place struct {
	dev disk.DevID
	off uint64
}

// superRanges are the offsets in a chunk that map to copies of the superblock on any
// of its devices, in order. The kernel gives nothing out there.
func superRanges(c *disk.ChunkMapping) (out []span) {
	k := space.Chunk{Start: c.Logical, Length: space.Bytes(c.Length), Flags: c.Type, StripeSize: space.Bytes(c.StripeLength())}
	for _, s := range c.Stripes {
		k.Stripes = append(k.Stripes, space.Stripe{Dev: s.DevID, Off: space.Physical(s.Offset)})
	}
	for _, r := range k.SuperblockRanges() {
		at := uint64(r.Start - c.Logical)
		out = append(out, span{at, at + uint64(r.Length)})
	}
	return out
}

// mapRange calls fn for each contiguous piece of the chunk's range [off, off+n)
// with the places where it stands. Parity is not among them.
func mapRange(c *disk.ChunkMapping, off, n uint64, fn func(at, n uint64, places []place) error) error {
	p := disk.ProfileOf(c.Type)
	count := len(c.Stripes)
	data := uint64(p.DataStripes(count))
	var buf [4]place
	if data == 1 && p.Parity == 0 {
		places := buf[:0]
		for _, s := range c.Stripes {
			places = append(places, place{s.DevID, s.Offset + off})
		}
		return fn(off, n, places)
	}
	for end := off + n; off < end; {
		in := off % disk.StripeLen
		piece := min(end-off, disk.StripeLen-in)
		nr := off / disk.StripeLen
		row, col := nr/data, int(nr%data)
		places := buf[:0]
		if p.Parity > 0 {
			s := c.Stripes[(col+int(row%uint64(count)))%count]
			places = append(places, place{s.DevID, s.Offset + row*disk.StripeLen + in})
		} else {
			for _, s := range c.Stripes[col*p.SubStripes : (col+1)*p.SubStripes] {
				places = append(places, place{s.DevID, s.Offset + row*disk.StripeLen + in})
			}
		}
		if err := fn(off, piece, places); err != nil {
			return err
		}
		off += piece
	}
	return nil
}

// chunkAt is the chunk that holds a logical address, or nil.
func (l *layout) chunkAt(at disk.Logical) *chunk {
	i, found := slices.BinarySearchFunc(l.chunks, at, func(c *chunk, v disk.Logical) int { return cmp.Compare(c.Logical, v) })
	if !found {
		i--
	}
	if i < 0 || at >= l.chunks[i].End() {
		return nil
	}
	return l.chunks[i]
}

// write writes b at a logical address to every copy. The range must lie in one
// chunk. It is safe for concurrent use as long as no chunk is added or trimmed.
func (c *chunk) write(devices []*device, at disk.Logical, b []byte) error {
	begin := uint64(at - c.Logical)
	return mapRange(&c.ChunkMapping, begin, uint64(len(b)), func(off, n uint64, places []place) error {
		piece := b[off-begin : off-begin+n]
		for _, p := range places {
			d := devices[p.dev-1]
			if _, err := d.dev.WriteAt(piece, int64(p.off)); err != nil {
				return err
			}
		}
		return nil
	})
}
