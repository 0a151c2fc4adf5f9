package space

import (
	"context"
	"errors"
)

// Lending takes free space out of use for a moment, so that somebody may do to
// it what would hurt an extent: discard it. Space is lent in pieces, and only as
// much as nothing that was promised needs, so that whoever looks for a place
// meanwhile hardly notices.

// FreeRanges are the free ranges of a group, in order, copies of the superblock
// left out. They may be used at any moment: see Lend. A group from which nothing
// may be allocated has none.
func (g *Group) FreeRanges(ctx context.Context) ([]Range, error) {
	if err := g.load(ctx); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.readOnly > 0 || g.gone {
		return nil, nil
	}
	var out []Range
	g.free.runs(func(lo, hi uint32) bool {
		out = append(out, g.rangeOf(lo, hi))
		return true
	})
	return out, nil
}

// Lend reserves a range of FreeRanges if it is still free and nobody needs it:
// until it is given back with ReturnExtent it is not used, by this transaction
// or any other.
func (fs *FS) Lend(ctx context.Context, r Range) (bool, error) {
	g := fs.Group(r.Start)
	if g == nil {
		return false, nil // removed since
	}
	if err := g.info.Reserve(ctx, r.Length, ClassNoWait); errors.Is(err, ErrNoSpace) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if g.lend(r) {
		return true, nil
	}
	g.info.Release(r.Length)
	return false, nil
}

func (g *Group) lend(r Range) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	lo, hi, err := g.sectors(r)
	if err != nil || g.readOnly > 0 || g.gone || g.free == nil || !g.free.set(lo, hi, false) {
		return false
	}
	g.setHint()
	g.account(counters{reserved: r.Length}, r.Length)
	return true
}

// maxHole bounds the piece of a device that EachHole holds at a time: chunks are
// not made meanwhile.
const maxHole = GiB

// EachHole calls f with all pieces of the devices that no chunk owns, copies of
// the superblock left out: while f runs no chunk is made. Devices that are not
// written are left out.
func (fs *FS) EachHole(ctx context.Context, f func(d DeviceSpec, off Physical, n Bytes) error) error {
	fs.devMu.Lock()
	var specs []DeviceSpec
	for _, d := range fs.devs {
		if !d.ReadOnly {
			specs = append(specs, d.DeviceSpec)
		}
	}
	fs.devMu.Unlock()
	for _, spec := range specs {
		for at := Physical(deviceStart); at < Physical(spec.Size); {
			next, err := fs.holeFrom(ctx, spec, at, f)
			if err != nil {
				return err
			}
			at = next
		}
	}
	return nil
}

// holeFrom calls f with the first hole at or behind at, and says where to go on.
func (fs *FS) holeFrom(ctx context.Context, spec DeviceSpec, at Physical, f func(DeviceSpec, Physical, Bytes) error) (Physical, error) {
	select {
	case fs.growSem <- struct{}{}:
		defer func() { <-fs.growSem }()
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	fs.devMu.Lock()
	end := Physical(spec.Size)
	if d := fs.deviceLocked(spec.ID); d != nil {
		at, end = d.holeAfter(at)
	}
	fs.devMu.Unlock()
	end = min(end, at+Physical(maxHole))
	for _, super := range superOffsets {
		switch {
		case super <= at && at < super+Physical(superLen):
			return super + Physical(superLen), nil
		case at < super && super < end:
			end = super
		}
	}
	if at >= end {
		return end, nil
	}
	return end, f(spec, at, Bytes(end-at))
}

// holeAfter is the first hole at or behind at; an empty one at the device's end
// if there is none.
func (d *device) holeAfter(at Physical) (from, to Physical) {
	for _, e := range d.busy {
		switch {
		case e.end() <= at:
		case e.off > at:
			return at, e.off
		default:
			at = e.end()
		}
	}
	size := Physical(max(0, d.Size))
	return min(at, size), size
}
