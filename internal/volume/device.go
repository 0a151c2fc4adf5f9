package volume

import (
	"context"
	"io"
	"sync/atomic"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
)

// device is one member; immutable after Open, but for the last fields.
type device struct {
	id    disk.DevID
	uuid  disk.UUID
	dev   blockdev.Device // nil: missing
	name  string
	size  uint64 // bytes that dev has
	item  disk.DevItem
	super *disk.Superblock // nil: missing
	stale bool             // its superblock is older than the newest
	// missed: more than one commit has passed without it. After a single one
	// the power may have gone between the superblocks of two members, and the
	// member has everything else that the commit wrote.
	missed bool
	seed   bool

	errs     deviceErrors
	keepsAll atomic.Bool // it said that it cannot discard
}

// writable says whether the device takes part in writing. One that missed
// commits does not: it would look like a member that has everything.
func (d *device) writable() bool { return d.dev != nil && !d.seed && !d.missed }

// missingDevice stands for a member that nobody gave.
func missingDevice(id disk.DevID, uuid disk.UUID) *device {
	return &device{id: id, uuid: uuid, name: "missing " + uuid.String()}
}

// read fills buf from off, or fails with a *DeviceError.
func (d *device) read(ctx context.Context, buf []byte, off uint64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.dev == nil {
		return d.fail("read", off, ErrMissingDevice)
	}
	if off > d.size || uint64(len(buf)) > d.size-off {
		d.errs.read.Add(1)
		return d.fail("read", off, io.ErrUnexpectedEOF)
	}
	n, err := d.dev.ReadAt(buf, int64(off))
	if n == len(buf) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	d.errs.read.Add(1)
	return d.fail("read", off, err)
}

// write writes buf at off, or fails with a *DeviceError.
func (d *device) write(buf []byte, off uint64) error {
	if !d.writable() {
		return d.fail("write", off, ErrMissingDevice)
	}
	if off > d.size || uint64(len(buf)) > d.size-off {
		d.errs.write.Add(1)
		return d.fail("write", off, blockdev.ErrRange)
	}
	if _, err := d.dev.WriteAt(buf, int64(off)); err != nil {
		d.errs.write.Add(1)
		return d.fail("write", off, err)
	}
	return nil
}

// sync makes durable what was written.
func (d *device) sync() error {
	if err := d.dev.Sync(); err != nil {
		d.errs.flush.Add(1)
		return d.fail("sync", 0, err)
	}
	return nil
}

func (d *device) fail(op string, off uint64, err error) error {
	return &DeviceError{Dev: d.id, Name: d.name, Op: op, Off: off, Err: err}
}
