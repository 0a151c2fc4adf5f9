package volume

import (
	"context"
	"errors"
	"fmt"

	"gobtrfs/disk"
)

// Chunks is the chunk map, sorted by logical address. It must not be changed.
func (v *Volume) Chunks() []disk.ChunkMapping { return v.chunks.Load().mappings }

// Chunk is the chunk that holds l.
func (v *Volume) Chunk(l disk.Logical) (*disk.ChunkMapping, bool) {
	c := v.chunks.Load().find(l)
	if c == nil {
		return nil, false
	}
	return c.ChunkMapping, true
}

// Mirrors is the number of ways to read l, 0 when no chunk holds it.
func (v *Volume) Mirrors(l disk.Logical) int {
	c := v.chunks.Load().find(l)
	if c == nil {
		return 0
	}
	return c.mirrors()
}

// find is the chunk that holds all n bytes at l, and l's offset in it.
func (v *Volume) find(l disk.Logical, n int) (*chunk, uint64, error) {
	c := v.chunks.Load().find(l)
	if c == nil {
		return nil, 0, &CorruptError{Logical: l, What: "no chunk maps the address", Err: ErrUnmapped}
	}
	off := uint64(l - c.Logical)
	if uint64(n) > c.Length-off {
		return nil, 0, &CorruptError{Logical: l, What: fmt.Sprintf("%d bytes reach behind the chunk's end at %d", n, uint64(c.End())), Err: ErrUnmapped}
	}
	return c, off, nil
}

// ReadMirror fills buf from l as the given mirror has it, from 1 to Mirrors.
// The range may cross stripes but not chunks. Nothing is verified. On an error
// the contents of buf are undefined.
func (v *Volume) ReadMirror(ctx context.Context, l disk.Logical, buf []byte, mirror int) error {
	c, off, err := v.find(l, len(buf))
	if err != nil {
		return err
	}
	if mirror < 1 || mirror > c.mirrors() {
		return fmt.Errorf("mirror %d of logical %d, want 1 to %d", mirror, uint64(l), c.mirrors())
	}
	return v.readMirror(ctx, c, off, buf, mirror)
}

// readMirror is ReadMirror with the chunk found and the mirror checked.
func (v *Volume) readMirror(ctx context.Context, c *chunk, off uint64, buf []byte, mirror int) error {
	for len(buf) > 0 {
		s := c.locate(off, mirror)
		n := min(s.n, uint64(len(buf)))
		if err := v.readSegment(ctx, c, off, s, buf[:n], mirror); err != nil {
			return err
		}
		off, buf = off+n, buf[n:]
	}
	return nil
}

// readSegment reads a piece that lies within one stripe element.
func (v *Volume) readSegment(ctx context.Context, c *chunk, off uint64, s segment, buf []byte, mirror int) error {
	if mirror > 1 && c.profile.Parity > 0 {
		return v.rebuild(ctx, c, off, buf, mirror)
	}
	if c.remapped {
		return v.readFromStripeTree(ctx, c, off, s, buf)
	}
	if c.profile.Parity > 0 {
		return v.readRow(ctx, c, off, s, buf)
	}
	return c.devs[s.stripe].read(ctx, buf, s.phys)
}

// readRow reads a piece of a data member of a row, and what waits of it. It
// asks first what waits: that may be on the device a moment later, and what was
// on the device before is not asked for.
func (v *Volume) readRow(ctx context.Context, c *chunk, off uint64, s segment, buf []byte) error {
	width := uint64(c.data) * disk.StripeLen
	newer := v.rows.newer(rowKey{c.Logical, off / width}, int(off%width), len(buf))
	if len(newer) == 1 && len(newer[0].data) == len(buf) {
		copy(buf, newer[0].data)
		return nil
	}
	if err := c.devs[s.stripe].read(ctx, buf, s.phys); err != nil {
		return err
	}
	for _, o := range newer {
		copy(buf[o.at:], o.data)
	}
	return nil
}

// readFirst fills buf, every segment from the mirror that is best for it, or
// from the next one when a device refuses.
func (v *Volume) readFirst(ctx context.Context, c *chunk, off uint64, buf []byte) error {
	for len(buf) > 0 {
		o := c.order(off)
		m, _ := o.next()
		s := c.locate(off, m)
		n := min(s.n, uint64(len(buf)))
		err := v.readSegment(ctx, c, off, s, buf[:n], m)
		if err != nil {
			err = v.readNext(ctx, c, off, buf[:n], &o, err)
		}
		if err != nil {
			return err
		}
		off, buf = off+n, buf[n:]
	}
	return nil
}

// readNext reads a segment from the mirrors that o has left, after one failed
// with err.
func (v *Volume) readNext(ctx context.Context, c *chunk, off uint64, buf []byte, o *order, err error) error {
	var bad failures
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v.addFailure(&bad, err)
		m, ok := o.next()
		if !ok {
			v.suspect(c, off, len(buf), &bad)
			return bad.err(c.Logical + disk.Logical(off))
		}
		if err = v.readSegment(ctx, c, off, c.locate(off, m), buf, m); err == nil {
			v.afterFailures(c, off, buf, m, &bad)
			return nil
		}
	}
}

// corrupt is an error about what mirror's copy at chunk offset off holds. A
// reconstruction is no single device's fault, so it names none.
func (c *chunk) corrupt(off uint64, mirror int, what string, err error) *CorruptError {
	e := &CorruptError{Logical: c.Logical + disk.Logical(off), Mirror: mirror, What: what, Err: err}
	if c.profile.Parity > 0 && mirror > 1 {
		e.What += " after reconstruction"
		return e
	}
	s := c.locate(off, mirror)
	d := c.devs[s.stripe]
	e.Dev, e.DevName = d.id, d.name
	if !c.remapped {
		e.Physical = s.phys
	}
	return e
}

// failures collects what was wrong with the mirrors that did not give good
// bytes. Its zero value is ready.
type failures struct{ errs []error }

// addFailure reports a failure as an event, except that a device which is not there is
// nothing new.
func (v *Volume) addFailure(f *failures, err error) {
	f.errs = append(f.errs, err)
	if errors.Is(err, ErrMissingDevice) {
		return
	}
	var corrupt *CorruptError
	var dev *DeviceError
	switch {
	case errors.As(err, &corrupt):
		if v.events.CorruptionFound != nil {
			v.events.CorruptionFound(*corrupt)
		}
	case errors.As(err, &dev):
		if v.events.ReadFailed != nil {
			v.events.ReadFailed(*dev)
		}
	}
}

// worthTelling says whether anything but missing devices was in the way.
func (f *failures) worthTelling() bool {
	for _, err := range f.errs {
		if !errors.Is(err, ErrMissingDevice) {
			return true
		}
	}
	return false
}

// err is the error when no mirror was good: the first corruption, with the
// other mirrors' errors behind it, or else the devices' errors.
func (f *failures) err(l disk.Logical) error {
	for i, err := range f.errs {
		var first *CorruptError
		if !errors.As(err, &first) {
			continue
		}
		if len(f.errs) == 1 {
			return err
		}
		out := *first
		rest := append([]error{first.Err}, f.errs[:i]...)
		out.Err = errors.Join(append(rest, f.errs[i+1:]...)...)
		out.What = fmt.Sprintf("%s, none of %d mirrors is good", first.What, len(f.errs))
		return &out
	}
	return fmt.Errorf("read logical %d: %w", uint64(l), errors.Join(f.errs...))
}
