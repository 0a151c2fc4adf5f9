package mkfs

import "gobtrfs/disk"

// region gives out the addresses of one kind. It adds a chunk when the last one
// is full. Addresses rise.
type region struct {
	l     *layout
	order chunkOrder
	cur   *chunk
	// spare is left unused at the end of every chunk. In the metadata region
	// that is one node, so that each of its groups ends in exactly one free
	// extent: the free-space tree then never shrinks when metadata grows,
	// which the fixed point of the tail relies on.
	spare uint64
	// grown is told about each new chunk, where somebody wants to know.
	grown func(*chunk)

	// A virtual region has no chunks yet: it counts up from base.
	virtual bool
	base    disk.Logical
	count   uint64
}

// room is how much of n bytes fit at c.next, or 0 when next stands in front of an
// excluded range or the end.
func (c *chunk) room(spare uint64) uint64 {
	limit := c.Length - min(spare, c.Length)
	for _, x := range c.excluded {
		if c.next < x.end {
			limit = min(limit, x.start)
			break
		}
	}
	return limit - min(limit, c.next)
}

// skip moves next behind the next excluded range, or to the end. What lies
// between is free.
func (c *chunk) skip() {
	to := c.Length
	for _, x := range c.excluded {
		if c.next < x.end {
			to = x.end
			break
		}
	}
	if k := len(c.skipped); k > 0 && c.skipped[k-1].end == c.next {
		c.skipped[k-1].end = to
	} else {
		c.skipped = append(c.skipped, span{c.next, to})
	}
	c.next = to
}

// free is the chunk's free space as offsets: the complement of what was given
// out.
func (c *chunk) free() []span {
	out := append([]span(nil), c.skipped...)
	if c.next < c.Length {
		if k := len(out); k > 0 && out[k-1].end == c.next {
			out[k-1].end = c.Length
		} else {
			out = append(out, span{c.next, c.Length})
		}
	}
	return out
}

// take gives out up to n contiguous bytes, exactly n when whole is set.
func (r *region) take(n uint64, whole bool) (at disk.Logical, c *chunk, got uint64, err error) {
	if r.virtual {
		at = r.base + disk.Logical(r.count)
		r.count += n
		return at, nil, n, nil
	}
	for {
		if r.cur == nil || r.cur.next >= r.cur.Length {
			if err := r.grow(); err != nil {
				return 0, nil, 0, err
			}
		}
		c = r.cur
		room := c.room(r.spare)
		if room == 0 || (whole && room < n) {
			c.skip()
			continue
		}
		got = min(n, room)
		at = c.Logical + disk.Logical(c.next)
		c.next += got
		c.used += got
		return at, c, got, nil
	}
}

// on is the region as it stands, for a copy of its layout.
func (r *region) on(l *layout) *region {
	c := *r
	c.l = l
	if r.cur != nil {
		c.cur = l.chunkAt(r.cur.Logical)
	}
	return &c
}

func (r *region) grow() error {
	c, err := r.l.addChunk(r.order)
	if err != nil {
		return err
	}
	r.cur = c
	if r.grown != nil {
		r.grown(c)
	}
	return nil
}
