package txn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/lockrank"
	"gobtrfs/internal/volume"
)

// mender keeps the ranges in which readers met bad copies, until they are
// mended.
//
// What a reader found bad may be of a commit that is not the last one any more,
// so nothing is overwritten because a reader says so. Whoever has the cycle knows
// what is committed, and that it stays so: no commit becomes durable meanwhile,
// hence nothing that the last one refers to is written over (X1), nor is what
// has checksums written in place. Under it each suspected range is looked up in
// the committed extent and checksum trees, and judged by them.
type mender struct {
	mu        lockrank.Mutex
	suspected map[disk.Logical]int // length of each range; protected by mu
	busy      bool                 // a goroutine was started to mend; protected by mu
	mending   bool                 // whoever has the cycle mends what it took; protected by mu
}

// rankMender: no lock is taken under mender.mu.
const rankMender lockrank.Rank = 95

const (
	// maxSuspected bounds the ranges that wait. Others will be met again.
	maxSuspected = 1024
	// mendTurn is how many ranges are mended while commits wait.
	mendTurn = 32
)

// suspect is the volume's volume.Suspected.
func (f *FS) suspect(l disk.Logical, n int) {
	m := &f.mender
	m.mu.Lock()
	if f.Err() != nil || len(m.suspected) >= maxSuspected {
		m.mu.Unlock()
		return
	}
	m.suspected[l] = max(n, m.suspected[l])
	start := !m.busy && !f.inStep // in step it waits for the next commit
	m.busy = m.busy || start
	m.mu.Unlock()
	if start {
		f.cycle.start(f.mendBeside)
	}
}

// mendBeside mends what is suspected beside everything else. What is suspected
// while it ends waits for the next commit.
func (f *FS) mendBeside() {
	_ = f.mendSuspected(f.cycle.ctx) // fails only when nobody cares any more
	f.mender.mu.Lock()
	defer f.mender.mu.Unlock()
	f.mender.busy = false
}

// idle says whether nothing is suspected that has not been looked at to the end.
func (m *mender) idle() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.suspected) == 0 && !m.mending
}

// take takes some of the ranges, until done.
//
// REQUIRES: the cycle was taken.
func (m *mender) take(most int) map[disk.Logical]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mending = true
	out := make(map[disk.Logical]int)
	for _, l := range slices.Sorted(maps.Keys(m.suspected))[:min(most, len(m.suspected))] {
		out[l] = m.suspected[l]
		delete(m.suspected, l)
	}
	return out
}

func (m *mender) done() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mending = false
}

// mendSuspected mends what is suspected, and waits for who is at it. Its error is
// that of ctx: what cannot be mended is none, as the reader was told of it or found
// a good copy.
func (f *FS) mendSuspected(ctx context.Context) error {
	for range maxSuspected / mendTurn {
		if f.mender.idle() {
			return nil
		}
		if err := f.mendSome(ctx); ctx.Err() != nil {
			return context.Cause(ctx)
		} else if err != nil {
			return nil
		}
	}
	return nil
}

// mendSome mends some ranges. An error is about what stands in the way of all.
func (f *FS) mendSome(ctx context.Context) error {
	if err := f.cycle.take(ctx); err != nil {
		return err
	}
	defer f.cycle.give(0)
	if err := f.Err(); err != nil {
		return err
	}
	batch := f.mender.take(mendTurn)
	defer f.mender.done()
	c, err := f.committed(ctx)
	if err != nil {
		return err
	}
	for _, l := range slices.Sorted(maps.Keys(batch)) {
		if err := c.mend(ctx, l, uint64(batch[l])); ctx.Err() != nil || errors.Is(err, volume.ErrReadOnly) {
			return err
		}
	}
	return nil
}

// mend mends n bytes at l, as far as they are committed and have checksums.
func (c *committed) mend(ctx context.Context, l disk.Logical, n uint64) error {
	return c.extents(ctx, l, l+disk.Logical(n), func(e *extentRange) error {
		if e.node {
			return c.mendNode(ctx, e)
		}
		return c.mendData(ctx, e.from, e.to)
	})
}

func (c *committed) mendNode(ctx context.Context, e *extentRange) error {
	g := &c.fs.geometry
	_, err := c.fs.vol.Mend(ctx, e.start, int(g.NodeSize), func(b []byte) error {
		n := disk.Node(b)
		switch {
		case !csum.Verify(g.CsumType, n.Csum(), n.Body()):
			return errors.New("node checksum mismatch")
		case n.Bytenr() != e.start:
			return fmt.Errorf("node says that it lives at %d", uint64(n.Bytenr()))
		case n.Generation() != e.gen:
			return fmt.Errorf("%w: %d, the extent item says %d", volume.ErrOldNode, n.Generation(), e.gen)
		}
		return n.ValidateLayout()
	})
	return err
}

func (c *committed) mendData(ctx context.Context, from, to disk.Logical) error {
	g := &c.fs.geometry
	sector, size := int(g.SectorSize), g.CsumType.Size()
	var first error
	err := c.sums(ctx, from, to, func(at disk.Logical, sums []byte) error {
		for ; len(sums) > 0; at, sums = at+disk.Logical(sector), sums[size:] {
			_, err := c.fs.vol.Mend(ctx, at, sector, func(b []byte) error {
				if !csum.Verify(g.CsumType, sums[:size], b) {
					return errors.New("data checksum mismatch")
				}
				return nil
			})
			if first == nil {
				first = err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		return nil
	})
	return errors.Join(err, first)
}
