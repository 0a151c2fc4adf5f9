package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
)

// ReadNode fills buf, which must be one node long, with the tree block at l. A
// copy counts when its checksum, its own address and its fsid are right and
// check, if not nil, returns nil; otherwise the next mirror is tried, and an
// event says so. A *CorruptError from check is completed with the place. When
// no mirror is good the error is that of the mirrors and buf is zeroed.
func (v *Volume) ReadNode(ctx context.Context, l disk.Logical, buf []byte, check func(disk.Node) error) error {
	sb := v.super.Load()
	if len(buf) != int(sb.NodeSize) {
		return fmt.Errorf("node buffer of %d bytes, want %d", len(buf), sb.NodeSize)
	}
	if uint64(l)%uint64(sb.SectorSize) != 0 {
		return &CorruptError{Logical: l, What: fmt.Sprintf("node address is not aligned to %d", sb.SectorSize)}
	}
	c, off, err := v.find(l, len(buf))
	if err != nil {
		return err
	}
	var bad failures
	o := c.order(off)
	for m, ok := o.next(); ok; m, ok = o.next() {
		if err = v.readMirror(ctx, c, off, buf, m); err == nil {
			if err = v.verifyNode(sb, c, off, m, disk.Node(buf), check); err == nil {
				v.afterFailures(c, off, buf, m, &bad)
				return nil
			}
		}
		if ctx.Err() != nil {
			clear(buf)
			return ctx.Err()
		}
		v.addFailure(&bad, err)
	}
	clear(buf)
	v.suspect(c, off, len(buf), &bad)
	return bad.err(l)
}

// verifyNode checks one copy of a tree block.
func (v *Volume) verifyNode(sb *disk.Superblock, c *chunk, off uint64, mirror int, n disk.Node, check func(disk.Node) error) error {
	switch {
	case !csum.Verify(sb.CsumType, n.Csum(), n.Body()):
		return c.corrupt(off, mirror, "node checksum mismatch", nil)
	case n.Bytenr() != c.Logical+disk.Logical(off):
		return c.corrupt(off, mirror, fmt.Sprintf("node says that it lives at %d", uint64(n.Bytenr())), nil)
	case !slices.Contains(v.fsids, n.FSID()):
		return c.corrupt(off, mirror, fmt.Sprintf("node of filesystem %v", n.FSID()), nil)
	case check == nil:
		return nil
	}
	err := check(n)
	if err == nil {
		return nil
	}
	at := c.corrupt(off, mirror, "invalid node", err)
	var e *CorruptError
	if !errors.As(err, &e) {
		return at
	}
	out := *e
	out.Dev, out.DevName, out.Physical, out.Logical, out.Mirror = at.Dev, at.DevName, at.Physical, at.Logical, mirror
	return &out
}

// afterFailures finishes a read that got good bytes from mirror after others
// had failed.
func (v *Volume) afterFailures(c *chunk, off uint64, buf []byte, mirror int, bad *failures) {
	if !bad.worthTelling() {
		return
	}
	v.suspect(c, off, len(buf), bad)
	if v.events.CorruptionRepaired != nil {
		v.events.CorruptionRepaired(Repair{Logical: c.Logical + disk.Logical(off), Length: len(buf), Mirror: mirror})
	}
}
