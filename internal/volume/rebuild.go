package volume

import (
	"context"
	"sync"

	"gobtrfs/disk"
	"gobtrfs/internal/raid6"
)

// Reconstruction for RAID5 and RAID6.
//
// A full stripe (a "row") has as many members as the chunk has stripes: data 0
// to data-1, then P, then Q. Any data members of them give back the others.
// What must not be used is the "lost" set: the member that is asked for, those
// whose device is missing, and, by mirror number, one more that is suspected:
//
//	mirror 2   nobody: P is used first
//	mirror 3   P, so that Q is used            (RAID6)
//	mirror 4…  one other data member after another (RAID6)
//
// which tries every way in which one more member can be silently wrong. Stale
// members and those that fail to be read are added while there is parity for
// them.

// lostSet is the members of a row that may not be used; at most two.
type lostSet struct {
	members [2]int
	n, max  int
}

func (s *lostSet) has(m int) bool {
	for _, v := range s.members[:s.n] {
		if v == m {
			return true
		}
	}
	return false
}

// add says whether there is parity to do without m too.
func (s *lostSet) add(m int) bool {
	if s.has(m) {
		return true
	}
	if s.n == s.max {
		return false
	}
	s.members[s.n] = m
	s.n++
	return true
}

// row is the place of a piece of a full stripe.
type row struct {
	c      *chunk
	nr     uint64 // of the row in the chunk
	in     uint64 // offset in each stripe element
	target int    // the data member that is wanted
}

func (r *row) member(m int) (*device, uint64) {
	stripe := r.c.rotated(uint64(m), r.nr)
	return r.c.devs[stripe], r.c.Stripes[stripe].Offset + r.nr*disk.StripeLen + r.in
}

// rebuild fills buf with what the data stripe at chunk offset off must have
// held, from the other members of its row. The range lies in one stripe element.
func (v *Volume) rebuild(ctx context.Context, c *chunk, off uint64, buf []byte, mirror int) error {
	nr := off / disk.StripeLen
	r := &row{c: c, nr: nr / uint64(c.data), in: off % disk.StripeLen, target: int(nr % uint64(c.data))}
	lost := lostSet{max: c.profile.Parity}
	lost.add(r.target)
	switch {
	case mirror == 3:
		lost.add(c.data)
	case mirror > 3:
		suspect := mirror - 4
		if suspect >= r.target {
			suspect++
		}
		lost.add(suspect)
	}
	if err := r.avoid(&lost); err != nil {
		return err
	}
	unlock, err := v.rows.lock(ctx, rowKey{c.Logical, r.nr})
	if err != nil {
		return err
	}
	defer unlock()
	return r.solve(ctx, buf, &lost)
}

// avoid adds the members whose device is missing, and the stale ones while
// there is parity left.
func (r *row) avoid(lost *lostSet) error {
	for m := range r.c.Stripes {
		if d, phys := r.member(m); d.dev == nil && !lost.add(m) {
			return d.fail("read", phys, ErrMissingDevice)
		}
	}
	for m := range r.c.Stripes {
		if d, _ := r.member(m); d.stale {
			lost.add(m)
		}
	}
	return nil
}

// solve reads as many members as are needed, data first, and computes the
// target into buf.
func (r *row) solve(ctx context.Context, buf []byte, lost *lostSet) error {
	c, n := r.c, len(buf)
	w := workPool.Get().(*work)
	defer workPool.Put(w)
	w.size(len(c.Stripes), n)
	w.members[r.target] = buf
	readQ := false
	for m, have := 0, 0; have < c.data; m++ {
		if lost.has(m) {
			continue
		}
		d, phys := r.member(m)
		if err := d.read(ctx, w.members[m], phys); err != nil {
			if ctx.Err() != nil || !lost.add(m) {
				return err
			}
			continue
		}
		have++
		readQ = readQ || m == c.data+1
	}
	var q []byte
	if readQ {
		q = w.members[c.data+1]
	}
	missing := make([]int, 0, len(lost.members))
	for _, m := range lost.members[:lost.n] {
		if m <= c.data {
			missing = append(missing, m)
		}
	}
	err := raid6.Rebuild(w.members[:c.data], w.members[c.data], q, missing...)
	clear(w.members) // buf is the caller's
	return err
}

// work is the memory for one row: at most 255+2 members of 64 KiB.
type work struct {
	slab    []byte
	members [][]byte
}

var workPool = sync.Pool{New: func() any { return new(work) }}

func (w *work) size(members, n int) {
	if len(w.slab) < members*n {
		w.slab = make([]byte, members*n)
	}
	w.members = w.members[:0]
	for i := range members {
		w.members = append(w.members, w.slab[i*n:(i+1)*n:(i+1)*n])
	}
}
