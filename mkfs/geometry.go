package mkfs

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

const (
	sectorSize = 4096
	mib        = 1 << 20
	gib        = 1 << 30
)

// span is the range [start, end) of bytes.
type span struct{ start, end uint64 }

func (s span) len() uint64 { return s.end - s.start }

// device is one member of the filesystem that is being made.
type device struct {
	dev   blockdev.Device
	id    disk.DevID
	uuid  disk.UUID
	size  uint64 // total_bytes, whole sectors
	taken []span // dev extents, sorted
	used  uint64 // their sum
}

// take reserves a range for a dev extent.
func (d *device) take(s span) {
	i, _ := slices.BinarySearchFunc(d.taken, s.start, func(t span, v uint64) int { return cmp.Compare(t.start, v) })
	d.taken = slices.Insert(d.taken, i, s)
	d.used += s.len()
}

// hole finds the first free range of want bytes, or else the largest one. In a
// compact layout the first one counts that holds smallest bytes, so that chunks
// stand one behind the other, and none covers a copy of the superblock.
func (d *device) hole(want, smallest uint64, compact bool) span {
	var best span
	at := uint64(disk.BlockReservedStart)
	try := func(end uint64) bool {
		end &^= disk.StripeLen - 1
		if end > at && end-at > best.len() {
			best = span{at, min(end, at+want)}
		}
		return best.len() >= want || (compact && best.len() >= smallest)
	}
	blocked := d.taken
	if compact {
		blocked = d.withSupers()
	}
	for _, t := range blocked {
		if try(min(t.start, d.size)) {
			return best
		}
		at = max(at, t.end)
	}
	try(d.size)
	return best
}

// withSupers is taken with the superblock copies added.
func (d *device) withSupers() []span {
	out := slices.Clone(d.taken)
	for m := 1; m < disk.SuperMirrorMax; m++ {
		at := disk.SuperOffset(m)
		if at >= d.size {
			break
		}
		out = append(out, span{at, at + disk.StripeLen})
	}
	slices.SortFunc(out, func(a, b span) int { return cmp.Compare(a.start, b.start) })
	return out
}

// chunk is a chunk with what is known of the space in it.
type chunk struct {
	disk.ChunkMapping
	next     uint64 // offset of the first byte not given out
	used     uint64 // bytes in extents
	skipped  []span // offsets below next that were passed over, sorted, disjoint
	excluded []span // offsets that map to superblock copies, sorted
}

// layout is the devices and the chunks on them.
type layout struct {
	devices     []*device
	chunks      []*chunk // by rising logical address
	nodeSize    uint64
	compact     bool
	nextLogical uint64
}

func newLayout(devices []*device, nodeSize uint64) *layout {
	return &layout{devices: devices, nodeSize: nodeSize, nextLogical: disk.BlockReservedStart}
}

// clone is a deep copy, for trying something out.
func (l *layout) clone() *layout {
	c := *l
	c.devices = make([]*device, len(l.devices))
	for i, d := range l.devices {
		e := *d
		e.taken = slices.Clone(d.taken)
		c.devices[i] = &e
	}
	c.chunks = make([]*chunk, len(l.chunks))
	for i, k := range l.chunks {
		e := *k
		e.skipped = slices.Clone(k.skipped)
		c.chunks[i] = &e
	}
	return &c
}

func (l *layout) totalBytes() (sum uint64) {
	for _, d := range l.devices {
		sum += d.size
	}
	return sum
}

// chunkOrder says what chunk is wanted.
type chunkOrder struct {
	flags     disk.BlockGroupFlags
	maxStripe uint64 // 0: what the rule says
	maxLength uint64 // logical bytes, rounded up to what can be had; 0: what the rule says
	minLength uint64 // refuse less; 0: anything
}

// sizeRule is the size rule of the kernel's chunk allocator: no stripe and no chunk
// above these, for a filesystem of total bytes.
func sizeRule(flags disk.BlockGroupFlags, total uint64) (maxStripe, maxChunk uint64) {
	size := uint64(space.DefaultChunkSize(flags, space.Bytes(total)))
	return min(size, gib), min(total/10, size)
}

// floorStripe is below which no first chunk goes on small devices, where a tenth
// of the device would be too little to work with. The numbers are those of
// btrfs-progs.
func floorStripe(flags disk.BlockGroupFlags) uint64 {
	if flags&disk.BlockGroupMetadata != 0 {
		return 32 * mib
	}
	return 8 * mib
}

// maxStripes is how many stripes a chunk item may have.
func (l *layout) maxStripes(flags disk.BlockGroupFlags) int {
	n := (disk.LeafDataSize(int(l.nodeSize))-disk.ItemHeaderSize-80)/32 + 1
	if flags&disk.BlockGroupSystem != 0 {
		n = min(n, (disk.SystemArrayMax-2*disk.KeySize-2*80)/32+1)
	}
	return n
}

// candidate is a device with the hole that a chunk could use on it.
type candidate struct {
	d     *device
	hole  span
	avail uint64
}

// candidates are the devices with room, best first.
func (l *layout) candidates(p *disk.Profile, maxStripe uint64) []candidate {
	var out []candidate
	for _, d := range l.devices {
		smallest := disk.StripeLen * uint64(p.DevStripes)
		h := d.hole(maxStripe*uint64(p.DevStripes), smallest, l.compact)
		if h.len() >= smallest {
			out = append(out, candidate{d, h, d.size - d.used})
		}
	}
	slices.SortStableFunc(out, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.hole.len(), a.hole.len()), cmp.Compare(b.avail, a.avail), cmp.Compare(a.d.id, b.d.id))
	})
	return out
}

// addChunk finds room on the devices and adds a chunk there.
func (l *layout) addChunk(o chunkOrder) (*chunk, error) {
	p := disk.ProfileOf(o.flags)
	maxStripe, maxChunk := sizeRule(o.flags, l.totalBytes())
	if o.maxStripe != 0 {
		maxStripe = min(maxStripe, o.maxStripe)
	}
	devs := l.candidates(p, maxStripe)
	n := len(devs) - len(devs)%p.Increment
	if limit := l.maxStripes(o.flags); n*p.DevStripes > limit {
		n = limit / p.DevStripes / p.Increment * p.Increment
	}
	if p.DevsMax != 0 {
		n = min(n, p.DevsMax)
	}
	if n < p.DevsMin {
		return nil, fmt.Errorf("%w: no %v chunk: %d of %d devices have room, want %d", ErrNoSpace, o.flags, len(devs), len(l.devices), p.DevsMin)
	}
	devs = devs[:n]
	numStripes := n * p.DevStripes
	data := uint64(p.DataStripes(numStripes))
	stripe := devs[n-1].hole.len() / uint64(p.DevStripes)
	if stripe*data > maxChunk {
		stripe = min(stripe, max(roundUp(maxChunk/data, 16*mib), floorStripe(o.flags)))
	}
	if o.maxLength != 0 {
		stripe = min(stripe, roundUp((o.maxLength+data-1)/data, disk.StripeLen))
	}
	stripe = min(stripe, maxStripe) &^ (disk.StripeLen - 1)
	if stripe == 0 || stripe*data < o.minLength {
		return nil, fmt.Errorf("%w: no %v chunk: largest possible is %d bytes, want %d", ErrNoSpace, o.flags, stripe*data, max(o.minLength, disk.StripeLen))
	}
	return l.commitChunk(o.flags, devs, stripe), nil
}

// commitChunk makes the chunk out of the chosen holes.
func (l *layout) commitChunk(flags disk.BlockGroupFlags, devs []candidate, stripe uint64) *chunk {
	p := disk.ProfileOf(flags)
	// Stripes stand in the order of device ids, so that the chunk does not
	// depend on which device happened to have the larger hole.
	slices.SortFunc(devs, func(a, b candidate) int { return cmp.Compare(a.d.id, b.d.id) })
	c := &chunk{ChunkMapping: disk.ChunkMapping{Logical: disk.Logical(l.nextLogical), Chunk: disk.Chunk{
		Owner: disk.TreeExtent, StripeLen: disk.StripeLen, Type: flags,
		IOAlign: disk.StripeLen, IOWidth: disk.StripeLen, SectorSize: sectorSize, SubStripes: uint16(p.SubStripes),
	}}}
	for _, v := range devs {
		for i := range uint64(p.DevStripes) {
			at := v.hole.start + i*stripe
			c.Stripes = append(c.Stripes, disk.Stripe{DevID: v.d.id, Offset: at, DevUUID: v.d.uuid})
			v.d.take(span{at, at + stripe})
		}
	}
	c.Length = stripe * uint64(p.DataStripes(len(c.Stripes)))
	c.excluded = superRanges(&c.ChunkMapping)
	l.nextLogical += c.Length
	l.chunks = append(l.chunks, c)
	return c
}

// trim shortens a chunk to what it needs to hold length bytes and gives the rest
// back to the devices. Each stripe shrinks at its end; the second stripe of a DUP
// chunk also moves up to the end of the first, so it is copied.
func (l *layout) trim(c *chunk, length uint64) error {
	p := disk.ProfileOf(c.Type)
	data := uint64(p.DataStripes(len(c.Stripes)))
	stripe := max(roundUp((length+data-1)/data, disk.StripeLen), disk.StripeLen)
	old := c.StripeLength()
	if stripe >= old {
		return nil
	}
	for i := range c.Stripes {
		s := &c.Stripes[i]
		d := l.device(s.DevID)
		at := slices.IndexFunc(d.taken, func(t span) bool { return t.start == s.Offset })
		d.used -= old - stripe
		if p.DevStripes == 1 || i == 0 {
			d.taken[at].end = s.Offset + stripe
			continue
		}
		first := c.Stripes[0].Offset
		if err := copyWithin(d.dev, first, first+stripe, c.next); err != nil {
			return err
		}
		s.Offset = first + stripe
		d.taken[at] = span{s.Offset, s.Offset + stripe}
	}
	c.Length = stripe * data
	c.excluded = superRanges(&c.ChunkMapping)
	return nil
}

// copyWithin copies n bytes from one place of a device to another one behind it
// that does not overlap.
func copyWithin(d blockdev.Device, from, to, n uint64) error {
	buf := make([]byte, mib)
	for done := uint64(0); done < n; done += uint64(len(buf)) {
		b := buf[:min(uint64(len(buf)), n-done)]
		if _, err := d.ReadAt(b, int64(from+done)); err != nil && err != io.EOF {
			return err
		}
		if _, err := d.WriteAt(b, int64(to+done)); err != nil {
			return err
		}
	}
	return nil
}

func (l *layout) device(id disk.DevID) *device { return l.devices[id-1] }

func roundUp(n, to uint64) uint64 { return (n + to - 1) / to * to }
