package scrub

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gobtrfs/disk"
	"gobtrfs/internal/btree"
)

// unitBytes is the longest unit of a chunk whose copies are contiguous.
const unitBytes = 1 << 20

// maxGap is the longest unused piece that is read along within a unit.
const maxGap = 64 << 10

// How many units wait for a worker. The planner is far ahead of the workers; it
// sleeps from when the queue is full until it is low, because waking it for
// every unit would take the processor from a worker each time.
const (
	queueUnits = 64
	lowUnits   = queueUnits / 4
)

// piece is a part of a unit that is verified in one way.
type piece struct {
	off, length uint64 // in the unit
	tree        bool
	gen         disk.TransID // of a tree block
	sums        []byte       // one for each sector; nil: data without checksums
}

// unit is what a worker verifies at once: a range that lies contiguously on
// each of its devices or, with parity, one full stripe.
type unit struct {
	chunk  *disk.ChunkMapping
	start  disk.Logical
	length uint64
	pieces []piece
	row    bool
}

// planner cuts what is in use into units, in the order of addresses.
type planner struct {
	s       *scrubber
	out     chan<- *unit
	drained <-chan struct{} // says now and then that out is low
	next    disk.Logical    // everything below has been handed out
	extents *btree.Tree
	csums   *btree.Tree
	sums    btree.Iterator
	at      uint64 // how far sums has been moved
	cur     *unit
	began   time.Time
	read    uint64 // bytes handed out, for the rate limit
}

func (p *planner) run(ctx context.Context) error {
	var err error
	if p.extents, err = p.s.trees.open(ctx, disk.TreeExtent); err != nil {
		return err
	}
	if p.csums, err = p.s.trees.open(ctx, disk.TreeCsum); err != nil && !errors.Is(err, errNoTree) {
		return err
	}
	p.began = p.s.o.Clock.Now()
	chunks := p.s.vol.Chunks()
	var used uint64
	for i := range chunks {
		used += uint64(disk.ProfileOf(chunks[i].Type).Copies) * chunks[i].Length
	}
	p.s.mu.Lock()
	p.s.total = min(used, p.s.sb.BytesUsed*uint64(averageCopies(chunks)))
	p.s.mu.Unlock()
	for i := range chunks {
		if chunks[i].End() <= p.next {
			continue
		}
		if err := p.chunk(ctx, &chunks[i]); err != nil {
			return err
		}
		if p.cur != nil {
			if err := p.flush(ctx); err != nil {
				return err
			}
		}
		p.next = chunks[i].End()
	}
	return nil
}

// averageCopies is how often a byte is stored, for the estimate of progress.
func averageCopies(chunks []disk.ChunkMapping) int {
	copies := 1
	for i := range chunks {
		if chunks[i].Type&disk.BlockGroupData != 0 {
			copies = max(copies, disk.ProfileOf(chunks[i].Type).Copies)
		}
	}
	return copies
}

// chunk plans one chunk. An extent that begins before p.next may reach into
// what is still to be done, so the walk begins at the start of the chunk.
func (p *planner) chunk(ctx context.Context, c *disk.ChunkMapping) error {
	it := p.extents.Seek(ctx, disk.Key{ObjectID: disk.ObjectID(c.Logical)})
	for ; it.Valid() && it.Key().ObjectID < disk.ObjectID(c.End()); it.Next() {
		k := it.Key()
		if k.Type != disk.KeyExtentItem && k.Type != disk.KeyMetadataItem {
			continue
		}
		e, err := disk.ParseExtentItem(it.Data())
		if err != nil {
			return fmt.Errorf("extent item %v: %w", k, err)
		}
		start, length := uint64(k.ObjectID), k.Offset
		tree := k.Type == disk.KeyMetadataItem || e.Flags&disk.ExtentFlagTreeBlock != 0
		if tree {
			length = uint64(p.s.geo.NodeSize)
		}
		length = min(length, uint64(c.End())-start)
		if err := p.extent(ctx, c, start, length, tree, e.Generation); err != nil {
			return err
		}
	}
	return it.Err()
}

// extent adds one extent, cut where units must end.
func (p *planner) extent(ctx context.Context, c *disk.ChunkMapping, start, length uint64, tree bool, gen disk.TransID) error {
	for length > 0 {
		n := min(length, p.room(c, start, tree))
		if disk.Logical(start) >= p.next || disk.Logical(start+n) > p.next {
			if err := p.place(ctx, c, start, n); err != nil {
				return err
			}
			if err := p.add(ctx, start, n, tree, gen); err != nil {
				return err
			}
		}
		start, length = start+n, length-n
	}
	return nil
}

// room is how much of what begins at start fits a unit.
func (p *planner) room(c *disk.ChunkMapping, start uint64, tree bool) uint64 {
	off := start - uint64(c.Logical)
	prof := disk.ProfileOf(c.Type)
	switch {
	case prof.Parity > 0:
		row := disk.StripeLen * uint64(prof.DataStripes(len(c.Stripes)))
		return row - off%row
	case prof.Flag == disk.BlockGroupRAID0 || prof.Flag == disk.BlockGroupRAID10:
		return disk.StripeLen - off%disk.StripeLen
	case tree:
		return uint64(p.s.geo.NodeSize)
	}
	return unitBytes
}

// place makes sure that the current unit is one to which n bytes at start can be
// added.
func (p *planner) place(ctx context.Context, c *disk.ChunkMapping, start, n uint64) error {
	prof := disk.ProfileOf(c.Type)
	if u := p.cur; u != nil {
		fits := u.chunk == c && start <= uint64(u.start)+u.length+maxGap && start+n-uint64(u.start) <= unitBytes
		switch {
		case u.row:
			fits = u.chunk == c && start+n <= uint64(u.start)+u.length
		case prof.Flag == disk.BlockGroupRAID0 || prof.Flag == disk.BlockGroupRAID10:
			fits = fits && (uint64(u.start)-uint64(c.Logical))/disk.StripeLen == (start-uint64(c.Logical))/disk.StripeLen
		}
		if fits {
			if !u.row {
				u.length = start + n - uint64(u.start)
			}
			return nil
		}
		if err := p.flush(ctx); err != nil {
			return err
		}
	}
	p.cur = &unit{chunk: c, start: disk.Logical(start), length: n}
	if prof.Parity > 0 {
		row := disk.StripeLen * uint64(prof.DataStripes(len(c.Stripes)))
		off := (start - uint64(c.Logical)) / row * row
		p.cur.start, p.cur.length, p.cur.row = c.Logical+disk.Logical(off), min(row, c.Length-off), true
	}
	return nil
}

// add adds a range of one extent to the current unit, cut where checksums begin
// and end.
func (p *planner) add(ctx context.Context, start, n uint64, tree bool, gen disk.TransID) error {
	u := p.cur
	if tree {
		u.pieces = append(u.pieces, piece{off: start - uint64(u.start), length: n, tree: true, gen: gen})
		return nil
	}
	for n > 0 {
		sums, length, err := p.sumsAt(ctx, start, n)
		if err != nil {
			return err
		}
		u.pieces = append(u.pieces, piece{off: start - uint64(u.start), length: length, sums: sums})
		start, n = start+length, n-length
	}
	return nil
}

// sumsAt gives the checksums from start on, or nil, and how many bytes that
// holds for. Calls come with rising addresses.
func (p *planner) sumsAt(ctx context.Context, start, n uint64) (sums []byte, length uint64, err error) {
	if p.csums == nil {
		return nil, n, nil
	}
	size, sector := uint64(p.s.geo.CsumType.Size()), uint64(p.s.geo.SectorSize)
	if p.at == 0 || start < p.at {
		p.sums = p.csums.SeekLast(ctx, disk.Key{ObjectID: disk.ExtentCsumObjectID, Type: disk.KeyExtentCsum, Offset: start})
		if err := p.sums.Err(); err != nil {
			return nil, 0, err
		}
		if !p.sums.Valid() {
			p.sums = p.csums.Seek(ctx, disk.Key{ObjectID: disk.ExtentCsumObjectID, Type: disk.KeyExtentCsum})
		}
	}
	p.at = start
	for ; p.sums.Valid(); p.sums.Next() {
		k := p.sums.Key()
		if k.Type != disk.KeyExtentCsum {
			continue
		}
		b := p.sums.Data()
		end := k.Offset + uint64(len(b))/size*sector
		switch {
		case end <= start:
			continue
		case k.Offset >= start+n:
			return nil, n, nil
		case k.Offset > start:
			return nil, k.Offset - start, nil
		}
		length = min(n, end-start)
		i := (start - k.Offset) / sector * size
		return b[i : i+length/sector*size], length, nil
	}
	return nil, n, p.sums.Err()
}

// flush hands the current unit out.
func (p *planner) flush(ctx context.Context) error {
	u := p.cur
	p.cur = nil
	if err := p.limit(ctx, u); err != nil {
		return err
	}
	for len(p.out) == cap(p.out) {
		select {
		case <-p.drained:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.out <- u // there is room: nobody else sends
	p.next = u.start + disk.Logical(u.length)
	return ctx.Err()
}

// limit waits until the unit may be read.
func (p *planner) limit(ctx context.Context, u *unit) error {
	prof := disk.ProfileOf(u.chunk.Type)
	p.read += u.length * uint64(prof.Copies)
	rate := p.s.o.BytesPerSecond
	if rate == 0 {
		return ctx.Err()
	}
	due := time.Duration(float64(p.read) / float64(rate) * float64(time.Second))
	return p.s.o.Clock.Sleep(ctx, due-p.s.o.Clock.Now().Sub(p.began))
}
