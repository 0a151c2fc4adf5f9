package volume

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
)

// Write writes buf to every copy of l. The range may cross stripes but not
// chunks. Members that are missing or missed commits are left out as long as
// every byte reaches at least one device, or parity stands for it; any other
// failure is an error, whatever was written. What goes to parity profiles may
// wait in memory until Sync, and only Sync may say that it failed.
//
// REQUIRES: nobody reads or writes the same range at the same time. With parity
// profiles the range is whole sectors.
func (v *Volume) Write(ctx context.Context, l disk.Logical, buf []byte) error {
	if err := v.MayWrite(); err != nil {
		return fmt.Errorf("write logical %d: %w", uint64(l), err)
	}
	c, off, err := v.find(l, len(buf))
	if err != nil {
		return err
	}
	if c.remapped {
		return &UnsupportedError{Feature: "writing with the raid-stripe-tree"}
	}
	if c.profile.Parity > 0 {
		return v.writeRows(ctx, c, off, buf)
	}
	for len(buf) > 0 {
		n := min(c.locate(off, 1).n, uint64(len(buf)))
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.writeCopies(off, buf[:n]); err != nil {
			return err
		}
		off, buf = off+n, buf[n:]
	}
	return nil
}

// writeCopies writes a piece that lies in one stripe element to all its copies.
func (c *chunk) writeCopies(off uint64, buf []byte) error {
	written := 0
	var missing error
	for m := 1; m <= c.profile.Copies; m++ {
		s := c.locate(off, m)
		err := c.devs[s.stripe].write(buf, s.phys)
		switch {
		case err == nil:
			written++
		case errors.Is(err, ErrMissingDevice):
			missing = err
		default:
			return err
		}
	}
	if written == 0 {
		return missing
	}
	return nil
}

// SetChunks publishes a new chunk map, in the place of the old one: chunks of
// the transaction that is being written are found from then on. Readers go on
// with whichever map they have. The devices stay the same. list is kept and
// must not be changed.
//
// REQUIRES: one caller at a time.
func (v *Volume) SetChunks(list []disk.ChunkMapping) error {
	sb := v.super.Load()
	byID := make(map[disk.DevID]*device, len(v.devices))
	for _, d := range v.devices {
		byID[d.id] = d
	}
	for i := range list {
		if err := list[i].Validate(sb.Geometry()); err != nil {
			return err
		}
		if err := checkPlaces(&list[i], byID); err != nil {
			return err
		}
	}
	if err := checkPhysicalOverlap(list); err != nil {
		return err
	}
	m, err := buildMap(sb, list, func(s *disk.Stripe) *device { return byID[s.DevID] })
	if err != nil {
		return err
	}
	v.chunks.Store(m)
	return nil
}

// Sync returns when all that was written before is durable on every member.
// The devices flush at the same time.
func (v *Volume) Sync() error {
	if err := v.flushRows(context.Background(), v.rows.takeAll()); err != nil {
		return err
	}
	if err := v.rows.wait(); err != nil {
		return err
	}
	errs := make([]error, len(v.devices))
	var wg sync.WaitGroup
	for i, d := range v.devices {
		if !d.writable() {
			continue
		}
		wg.Go(func() { errs[i] = d.sync() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// WriteSuper makes sb the superblock of every member: copy 0 everywhere, flush,
// then the other copies, flush. What sb refers to must be durable before. Each
// device gets its own device item, from items by id, or as it was when items
// has none. Super is sb afterwards.
func (v *Volume) WriteSuper(ctx context.Context, sb *disk.Superblock, items map[disk.DevID]disk.DevItem) error {
	if err := v.MayWrite(); err != nil {
		return fmt.Errorf("write superblock: %w", err)
	}
	for _, mirrors := range [...][]int{{0}, {1, 2}} {
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, d := range v.devices {
			if !d.writable() {
				continue
			}
			item, ok := items[d.id]
			if !ok {
				item = d.item
			}
			for _, m := range mirrors {
				if err := d.writeSuper(sb, item, m); err != nil {
					return err
				}
			}
		}
		if err := v.Sync(); err != nil {
			return err
		}
		if mirrors[0] == 0 {
			v.super.Store(sb)
		}
	}
	return nil
}

// writeSuper writes one copy, unless the filesystem does not reach its place.
func (d *device) writeSuper(sb *disk.Superblock, item disk.DevItem, mirror int) error {
	off := disk.SuperOffset(mirror)
	if off+disk.SuperInfoSize > min(item.TotalBytes, d.size) {
		return nil
	}
	own := *sb
	own.DevItem, own.Bytenr = item, off
	b, err := own.Encode()
	if err != nil {
		return fmt.Errorf("superblock of device %d: %w", d.id, err)
	}
	sum := csum.Sum(sb.CsumType, b[disk.CsumSize:])
	copy(b, sum[:])
	return d.write(b, off)
}

// WriteLogSuper writes copy 0 of sb to every member and flushes them: the last
// commit's superblock with another log root, which the other copies do without.
// What the log refers to must be durable before. Super stays as it is. items
// are as for WriteSuper.
func (v *Volume) WriteLogSuper(ctx context.Context, sb *disk.Superblock, items map[disk.DevID]disk.DevItem) error {
	if err := v.MayWrite(); err != nil {
		return fmt.Errorf("write superblock: %w", err)
	}
	for _, d := range v.devices {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !d.writable() {
			continue
		}
		item, ok := items[d.id]
		if !ok {
			item = d.item
		}
		if err := d.writeSuper(sb, item, 0); err != nil {
			return err
		}
	}
	return v.Sync()
}
