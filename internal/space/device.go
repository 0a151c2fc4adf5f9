package space

import (
	"cmp"
	"slices"

	"gobtrfs/disk"
)

// DeviceSpec describes a device of the filesystem.
type DeviceSpec struct {
	ID       disk.DevID
	Size     Bytes // total_bytes of the device item
	ReadOnly bool  // seed, missing, or target of a replace: holds extents, gets none
}

// device is a device's address space: what chunks occupy of it. FS.devMu
// protects it.
//
// busy holds (committed ∪ pending) extents, in order and disjoint: those of the
// last commit, those made since, and those freed since. An extent freed in a
// transaction stays busy until the superblock of that transaction is durable,
// for until then the old superblock still refers to it. A search that looks at
// busy therefore needs no second list to trim by, and several pending extents
// in one gap are as harmless as one.
type device struct {
	DeviceSpec
	busy   []devExtent
	usable Bytes // bytes in [deviceStart, Size) that are not busy
}

// devExtent is one stripe of a chunk, as it lies on its device.
type devExtent struct {
	off    Physical
	length Bytes
	chunk  disk.Logical // the chunk it belongs to
	freed  bool         // its chunk is gone, its transaction is not yet durable
}

func (e devExtent) end() Physical { return e.off + Physical(e.length) }

func newDevice(spec DeviceSpec) *device {
	return &device{DeviceSpec: spec, usable: max(0, spec.Size-deviceStart)}
}

// index is the position at which an extent at off stands or would stand.
func (d *device) index(off Physical) (int, bool) {
	return slices.BinarySearchFunc(d.busy, off, func(e devExtent, off Physical) int { return cmp.Compare(e.off, off) })
}

// occupy adds an extent (I8: disjoint, inside the device).
func (d *device) occupy(e devExtent) error {
	if e.length <= 0 || e.off > Physical(d.Size) || e.length > d.Size-Bytes(e.off) {
		return corruptf("extent [%d, +%d) of chunk %d is outside device %d of %d bytes", e.off, e.length, e.chunk, d.ID, d.Size)
	}
	i, _ := d.index(e.off)
	for _, j := range []int{i - 1, i} {
		if j >= 0 && j < len(d.busy) && d.busy[j].off < e.end() && e.off < d.busy[j].end() {
			return corruptf("extents of chunks %d and %d overlap at %d on device %d", d.busy[j].chunk, e.chunk, e.off, d.ID)
		}
	}
	d.busy = slices.Insert(d.busy, i, e)
	d.usable -= e.countable()
	return nil
}

// countable is the part of an extent that lies where new extents may lie.
func (e devExtent) countable() Bytes {
	return max(0, Bytes(e.end())-max(Bytes(e.off), deviceStart))
}

// release gives the extent at off back at once: it was never committed.
func (d *device) release(off Physical) {
	if i, ok := d.index(off); ok {
		d.usable += d.busy[i].countable()
		d.busy = slices.Delete(d.busy, i, i+1)
	}
}

// markFreed keeps the extent at off busy until releaseFreed.
func (d *device) markFreed(off Physical) {
	if i, ok := d.index(off); ok {
		d.busy[i].freed = true
	}
}

// hole finds the first hole of want bytes. If there is none it returns the
// longest hole, which is then shorter.
func (d *device) hole(want Bytes) (Physical, Bytes) {
	at, best, size := Physical(deviceStart), Physical(deviceStart), Bytes(0)
	try := func(end Physical) bool {
		if end > at && Bytes(end-at) > size {
			best, size = at, Bytes(end-at)
		}
		return size >= want
	}
	for _, e := range d.busy {
		if try(e.off) {
			return best, want
		}
		at = max(at, e.end())
	}
	if try(Physical(max(0, d.Size))) {
		return best, want
	}
	return best, size
}

// unallocated is what no chunk owns, including what a commit must release
// before it may be used.
func (d *device) unallocated() Bytes {
	n := d.usable
	for _, e := range d.busy {
		if e.freed {
			n += e.countable()
		}
	}
	return n
}
