package scrub

import (
	"context"
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
)

// windowBytes is how much of a copy is read at once and then verified: it must
// still be in the processor's own cache when its checksums are computed, and hold
// the largest tree block.
const windowBytes = 256 << 10

// quick reads all copies of a unit and says whether everything in them is as it
// should be. It does not say what is wrong, and it cannot compare copies.
func (w *worker) quick(ctx context.Context, u *unit, copies int) bool {
	if copies > 1 && slices.ContainsFunc(u.pieces, func(x piece) bool { return !x.tree && x.sums == nil }) {
		return false
	}
	buf := w.buffers(1, min(u.length, windowBytes))[0]
	for m := range copies {
		pieces := u.pieces
		for at := uint64(0); at < u.length; {
			end := windowEnd(pieces, at, u.length)
			b := buf[:end-at]
			if w.s.vol.ReadMirror(ctx, u.start+disk.Logical(at), b, m+1) != nil {
				return false
			}
			for len(pieces) > 0 && pieces[0].off < end {
				x := &pieces[0]
				from, to := max(at, x.off), min(end, x.off+x.length)
				if !w.good(u, x, from-x.off, b[from-at:to-at]) {
					return false
				}
				if to < x.off+x.length {
					break
				}
				pieces = pieces[1:]
			}
			at = end
		}
	}
	return true
}

// windowEnd is where the window that begins at at ends: no tree block is cut.
func windowEnd(pieces []piece, at, length uint64) uint64 {
	end := min(at+windowBytes, length)
	for i := range pieces {
		x := &pieces[i]
		if x.off >= end {
			break
		}
		if x.tree && x.off+x.length > end {
			return x.off
		}
	}
	return end
}

// good says whether b, which stands at offset o of a piece, is what was written.
func (w *worker) good(u *unit, x *piece, o uint64, b []byte) bool {
	switch {
	case x.tree:
		return w.judge(u, x, o, b) == nil
	case x.sums == nil:
		return true
	}
	t, sector := w.s.geo.CsumType, w.s.geo.SectorSize
	return csum.VerifyBlocks(t, x.sums[o/uint64(sector)*uint64(t.Size()):], b, sector) == -1
}
