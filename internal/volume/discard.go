package volume

import (
	"errors"

	"gobtrfs/disk"
)

// Discard gives back what stands behind n bytes at l, on every copy, and says
// how many bytes of devices that were; a device may keep them all the same. With
// parity nothing is given back, as parity is made of what is there. A device
// that cannot discard is asked once.
//
// REQUIRES: nothing refers to the range, and nobody reads or writes it.
func (v *Volume) Discard(l disk.Logical, n uint64) (uint64, error) {
	c, off, err := v.find(l, int(n))
	if err != nil {
		return 0, err
	}
	if c.profile.Parity > 0 || c.remapped || len(v.readOnly) > 0 {
		return 0, nil
	}
	// Of striped chunks the pieces of one stripe follow each other, with those of
	// others in between.
	open := make([]struct{ off, n uint64 }, len(c.Stripes))
	var total uint64
	var errs []error
	flush := func(stripe int) {
		o := &open[stripe]
		done, err := c.devs[stripe].discard(o.off, o.n)
		total += done
		errs = append(errs, err)
		o.n = 0
	}
	for n > 0 {
		piece := min(c.locate(off, 1).n, n)
		for m := 1; m <= c.profile.Copies; m++ {
			s := c.locate(off, m)
			o := &open[s.stripe]
			if o.n > 0 && o.off+o.n != s.phys {
				flush(s.stripe)
			}
			if o.n == 0 {
				o.off = s.phys
			}
			o.n += piece
		}
		off, n = off+piece, n-piece
	}
	for stripe := range open {
		if open[stripe].n > 0 {
			flush(stripe)
		}
	}
	return total, errors.Join(errs...)
}

// DiscardDevice gives back n bytes at off of a device, as Discard does.
func (v *Volume) DiscardDevice(id disk.DevID, off, n uint64) (uint64, error) {
	for _, d := range v.devices {
		if d.id == id && len(v.readOnly) == 0 {
			return d.discard(off, n)
		}
	}
	return 0, nil
}

// CanDiscard says whether a device may be able to discard: false when all have
// said that they are not.
func (v *Volume) CanDiscard() bool {
	for _, d := range v.devices {
		if d.writable() && !d.keepsAll.Load() {
			return true
		}
	}
	return false
}

// discard gives back a part of the device, as far as it takes part in writing
// and can.
func (d *device) discard(off, n uint64) (uint64, error) {
	if !d.writable() || d.keepsAll.Load() || off >= d.size {
		return 0, nil
	}
	n = min(n, d.size-off)
	err := d.dev.Discard(int64(off), int64(n))
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		d.keepsAll.Store(true)
		return 0, nil
	case err != nil:
		return 0, d.fail("discard", off, err)
	}
	return n, nil
}
