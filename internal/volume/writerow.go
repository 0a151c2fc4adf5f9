package volume

import (
	"bytes"
	"context"
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/raid6"
)

// Writing RAID5 and RAID6.
//
// A row that was written as a whole goes out with its parity and nothing is
// read. Of a row that was written in part the other members are read, in the
// columns that change: the byte range of each stripe element, for parity is
// computed column by column. Before parity is computed anew, what was read must
// be right, or damage would be sealed in: it is, when it agrees with the old
// parity; when it does not, every committed byte in it is asked for by its
// checksum (see Committed) and mended first.
//
// Bytes that are written do not overwrite committed ones, except in place where
// checksums are off, so with all members there a torn row costs no more than
// parity that a scrub must set right. With a member missing it would cost that
// member's bytes: who allocates must not let committed and new bytes meet in a
// row then. docs/design/0006 says what is promised.

// Committed fills those parts of buf that the last commit refers to with the
// right bytes, as they are at l, and leaves the others as they are. It is asked
// when a row contradicts its parity.
type Committed func(ctx context.Context, l disk.Logical, buf []byte) error

// SetCommitted tells the volume how to find out what is committed. Without it
// data is believed rather than parity.
//
// REQUIRES: nothing is being written.
func (v *Volume) SetCommitted(c Committed) { v.committed = c }

// writeRows enters a range of a parity chunk in the row buffers and writes
// those that are complete or in the way.
func (v *Volume) writeRows(ctx context.Context, c *chunk, off uint64, buf []byte) error {
	sector := int(v.super.Load().SectorSize)
	if off%uint64(sector) != 0 || len(buf)%sector != 0 {
		return fmt.Errorf("write of %d bytes at logical %d is not aligned to %d", len(buf), uint64(c.Logical)+off, sector)
	}
	width := uint64(c.data) * disk.StripeLen
	var firstErr error
	for len(buf) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(width-off%width, uint64(len(buf)))
		due := v.rows.add(rowKey{c.Logical, off / width}, c, sector, int(off%width), buf[:n])
		if err := v.flushRows(ctx, due); err != nil && firstErr == nil {
			firstErr = err
		}
		off, buf = off+n, buf[n:]
	}
	return firstErr
}

// flushRows writes buffers out and forgets them, whatever comes of it.
func (v *Volume) flushRows(ctx context.Context, due []*rowBuffer) error {
	// A row that is half written because the caller lost interest is lost.
	ctx = context.WithoutCancel(ctx)
	var firstErr error
	for _, b := range due {
		err := v.flushRow(ctx, b)
		v.rows.done(b, err)
		if err != nil && firstErr == nil {
			firstErr = err
		}
	}
	return firstErr
}

func (v *Volume) flushRow(ctx context.Context, b *rowBuffer) error {
	unlock, err := v.rows.lock(ctx, b.key)
	if err != nil {
		return err
	}
	defer unlock()
	u := newRowUpdate(v, b)
	if b.missing > 0 {
		if err := u.read(context.WithValue(ctx, rowLockKey{}, true)); err != nil {
			return err
		}
	}
	return u.write()
}

// rowUpdate is the columns [lo, hi) of a row while they are changed.
type rowUpdate struct {
	v       *Volume
	b       *rowBuffer
	row     row // in is lo
	lo, hi  int // in every stripe element
	members [][]byte
}

func newRowUpdate(v *Volume, b *rowBuffer) *rowUpdate {
	u := &rowUpdate{v: v, b: b, lo: disk.StripeLen, row: row{c: b.c, nr: b.key.row}}
	per := disk.StripeLen / b.sector
	for s := range len(b.data) / b.sector {
		if in := s % per * b.sector; b.has(s) {
			u.lo, u.hi = min(u.lo, in), max(u.hi, in+b.sector)
		}
	}
	u.row.in = uint64(u.lo)
	n := u.hi - u.lo
	slab := make([]byte, len(b.c.Stripes)*n)
	for m := range b.c.Stripes {
		u.members = append(u.members, slab[m*n:(m+1)*n:(m+1)*n])
	}
	for m := range b.c.data {
		u.merge(m)
	}
	return u
}

// merge puts the new bytes of data member m over what is there.
func (u *rowUpdate) merge(m int) {
	u.each(m, func(at int, buf []byte) error {
		copy(u.members[m][at-u.lo:], buf)
		return nil
	})
}

// each calls f with the runs of new bytes of data member m, and their offsets
// in the stripe element.
func (u *rowUpdate) each(m int, f func(at int, buf []byte) error) error {
	first := m * disk.StripeLen
	for at := u.lo; at < u.hi; {
		end := at
		for end < u.hi && u.b.has((first+end)/u.b.sector) {
			end += u.b.sector
		}
		if end == at {
			at += u.b.sector
			continue
		}
		if err := f(at, u.b.data[first+at:first+end]); err != nil {
			return err
		}
		at = end
	}
	return nil
}

func (u *rowUpdate) parity() (data [][]byte, p, q []byte) {
	n := u.b.c.data
	if u.b.c.profile.Parity > 1 {
		q = u.members[n+1]
	}
	return u.members[:n], u.members[n], q
}

// read fills the columns with what is on the devices, mended, and the new bytes.
func (u *rowUpdate) read(ctx context.Context) error {
	lost := make([]int, 0, 2)
	for m := range u.members {
		d, phys := u.row.member(m)
		var err error
		if d.writable() {
			err = d.read(ctx, u.members[m], phys)
		} else {
			err = d.fail("read", phys, ErrMissingDevice)
		}
		if err == nil {
			continue
		}
		if len(lost) == u.b.c.profile.Parity {
			return err
		}
		lost = append(lost, m)
	}
	data, p, q := u.parity()
	if len(lost) > 0 {
		if err := raid6.Rebuild(data, p, q, lost...); err != nil {
			return err
		}
	}
	// What is left of the parity after that still tells.
	pGood, qGood, err := raid6.Verify(data, p, q)
	if err != nil {
		return err
	}
	if (!pGood || !qGood) && u.v.committed != nil {
		u.mend(ctx)
	}
	for m := range u.b.c.data {
		u.merge(m)
	}
	return nil
}

// mend replaces committed bytes that are not what their checksum says. What
// cannot be had is left as it was read: it is lost with or without this write.
func (u *rowUpdate) mend(ctx context.Context) {
	c := u.b.c
	at := c.Logical + disk.Logical(u.b.key.row*uint64(c.data)*disk.StripeLen)
	for m := range c.data {
		l := at + disk.Logical(m*disk.StripeLen+u.lo)
		right := bytes.Clone(u.members[m])
		if err := u.v.committed(ctx, l, right); err != nil || bytes.Equal(right, u.members[m]) {
			continue
		}
		copy(u.members[m], right)
		if d, phys := u.row.member(m); d.writable() {
			// Best effort: parity will hold the right bytes in any case.
			_ = d.write(right, phys)
		}
	}
}

// write computes parity and writes the new bytes and it to the members that
// take part.
func (u *rowUpdate) write() error {
	data, p, q := u.parity()
	if err := raid6.Generate(data, p, q); err != nil {
		return err
	}
	away := 0
	for m := range u.members {
		d, phys := u.row.member(m)
		if !d.writable() {
			if away++; away > u.b.c.profile.Parity {
				return d.fail("write", phys, ErrMissingDevice)
			}
			continue
		}
		if m >= u.b.c.data {
			if err := d.write(u.members[m], phys); err != nil {
				return err
			}
			continue
		}
		err := u.each(m, func(at int, buf []byte) error { return d.write(buf, phys+uint64(at-u.lo)) })
		if err != nil {
			return err
		}
	}
	return nil
}
