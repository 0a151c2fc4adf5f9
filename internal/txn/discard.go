package txn

import (
	"context"
	"errors"
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
	"gobtrfs/internal/volume"
)

// Discarding gives back to the devices what nobody uses, so that image files
// stay sparse. Two things are never touched: what the superblock that a crash
// would find refers to, and what somebody may have been given meanwhile.
//
// A commit discards what it has freed when its superblock is durable and before
// the places can be used again. Trim discards free space, which is lent to it,
// and what no chunk owns, while none is made. A discard that fails has changed
// nothing that anybody reads: it is told, and no error of the commit.

// discardFreed discards what a commit has freed: extents, nodes of its log, and
// whole chunks.
//
// REQUIRES: the commit is durable, and its pins are not released.
func (f *FS) discardFreed(s *sealed) {
	if !f.opts.Discard {
		return
	}
	discard := func(r space.Range) bool {
		_, err := f.vol.Discard(r.Start, uint64(r.Length))
		f.discardFailed(err)
		return f.vol.CanDiscard()
	}
	f.space.PinnedRanges(s.trans, discard)
	for _, r := range s.logged {
		discard(r)
	}
	for _, at := range s.leaving {
		c, ok := f.vol.Chunk(at)
		if !ok {
			continue
		}
		for i := range c.Stripes {
			_, err := f.vol.DiscardDevice(c.Stripes[i].DevID, c.Stripes[i].Offset, c.StripeLength())
			f.discardFailed(err)
		}
	}
}

func (f *FS) discardFailed(err error) {
	var e *volume.DeviceError
	if errors.As(err, &e) && f.opts.DiscardFailed != nil {
		f.opts.DiscardFailed(*e)
	}
}

// TrimOptions say what Trim discards.
type TrimOptions struct {
	// Minimum leaves out free pieces that are shorter, in bytes. Default: 0.
	Minimum uint64
	// Start and Length limit the block groups that are looked at to those that
	// reach into a range of logical addresses. What no chunk owns has none and is
	// always discarded. Default: Length 0, all of them.
	Start  disk.Logical
	Length uint64
}

// Pieces that Trim has lent at a time. Metadata, of which much more is promised
// than is ever used, gets on with what is left of it.
const (
	trimData     = 64 << 20
	trimMetadata = 2 << 20
)

// Trim commits, and discards what is free then: in block groups (but for system
// chunks, which are small) and between chunks. It returns the bytes of devices
// that it discarded; the error wraps errors.ErrUnsupported if no device can.
// Operations go on meanwhile. What is used again at that moment, or promised to
// somebody, is left out.
func (f *FS) Trim(ctx context.Context, o TrimOptions) (trimmed uint64, err error) {
	if err := f.Tidy(ctx); err != nil {
		return 0, err
	}
	for _, g := range f.space.Groups() {
		c := g.Chunk()
		inRange := o.Length == 0 || c.Range().End() > o.Start && uint64(c.Start-min(c.Start, o.Start)) < o.Length
		if !inRange || c.Flags&disk.BlockGroupSystem != 0 {
			continue
		}
		n, err := f.trimGroup(ctx, g, space.Bytes(o.Minimum))
		trimmed += n
		if err != nil {
			return trimmed, err
		}
	}
	err = f.space.EachHole(ctx, func(d space.DeviceSpec, off space.Physical, n space.Bytes) error {
		if uint64(n) < o.Minimum {
			return nil
		}
		done, err := f.vol.DiscardDevice(d.ID, uint64(off), uint64(n))
		trimmed += done
		return err
	})
	if err == nil && !f.vol.CanDiscard() {
		err = fmt.Errorf("no device can discard: %w", errors.ErrUnsupported)
	}
	return trimmed, err
}

func (f *FS) trimGroup(ctx context.Context, g *space.Group, least space.Bytes) (trimmed uint64, err error) {
	free, err := g.FreeRanges(ctx)
	if err != nil {
		return 0, err
	}
	most := space.Bytes(trimData)
	if g.Chunk().Flags&disk.BlockGroupMetadata != 0 {
		most = trimMetadata
	}
	for _, r := range free {
		for end := r.End(); r.Length >= least && r.Start < end; r.Start += disk.Logical(most) {
			piece := space.Range{Start: r.Start, Length: min(most, space.Bytes(end-r.Start))}
			n, err := f.trimPiece(ctx, piece)
			trimmed += n
			if err == nil {
				err = f.Err()
			}
			if err == nil {
				err = context.Cause(ctx)
			}
			if err != nil {
				return trimmed, err
			}
		}
	}
	return trimmed, nil
}

func (f *FS) trimPiece(ctx context.Context, r space.Range) (trimmed uint64, err error) {
	ok, err := f.space.Lend(ctx, r)
	if err != nil || !ok {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.space.ReturnExtent(r)) }()
	return f.vol.Discard(r.Start, uint64(r.Length))
}
