package volume

import (
	"errors"
	"sync/atomic"

	"gobtrfs/disk"
)

// ErrOldNode is wrapped by errors about a tree block that is whole and of
// another generation than its parent says: a write that never reached the
// device, mostly.
var ErrOldNode = errors.New("another generation")

// deviceErrors counts what went wrong with one device, in the sense of
// disk.DevStats, since the numbers were last taken.
type deviceErrors struct {
	write, read, flush, corruption, generation atomic.Uint64
}

func (e *deviceErrors) all() [5]*atomic.Uint64 {
	return [...]*atomic.Uint64{&e.write, &e.read, &e.flush, &e.corruption, &e.generation}
}

// numbers is what was counted; take begins anew at 0.
func (e *deviceErrors) numbers(take bool) disk.DevStats {
	var n [5]uint64
	for i, c := range e.all() {
		if n[i] = c.Load(); take && n[i] != 0 {
			n[i] = c.Swap(0)
		}
	}
	return disk.DevStats{WriteErrs: n[0], ReadErrs: n[1], FlushErrs: n[2], CorruptionErrs: n[3], GenerationErrs: n[4]}
}

// Errors counts what went wrong with the devices since Open or the last
// TakeErrors. Devices without errors are left out. Operations that failed are
// counted here, one each; bad copies too, as long as nobody judges them (see
// SetSuspected).
func (v *Volume) Errors() map[disk.DevID]disk.DevStats { return v.errorNumbers(false) }

// TakeErrors is Errors, which then begins anew.
func (v *Volume) TakeErrors() map[disk.DevID]disk.DevStats { return v.errorNumbers(true) }

func (v *Volume) errorNumbers(take bool) map[disk.DevID]disk.DevStats {
	var out map[disk.DevID]disk.DevStats
	for _, d := range v.devices {
		n := d.errs.numbers(take)
		if n == (disk.DevStats{}) {
			continue
		}
		if out == nil {
			out = make(map[disk.DevID]disk.DevStats)
		}
		out[d.id] = n
	}
	return out
}

// countBad counts a bad copy on the device that holds it.
func (v *Volume) countBad(err *CorruptError) {
	for _, d := range v.devices {
		if d.id != err.Dev {
			continue
		}
		if errors.Is(err, ErrOldNode) {
			d.errs.generation.Add(1)
		} else {
			d.errs.corruption.Add(1)
		}
	}
}
