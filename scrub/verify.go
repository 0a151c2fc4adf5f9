package scrub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/volume"
)

// worker verifies units, one at a time; its buffers are used again.
type worker struct {
	s    *scrubber
	bufs [][]byte
	// bad has the granules of each copy that could not be read.
	unread [][]bool
}

func (w *worker) buffers(n int, size uint64) [][]byte {
	for len(w.bufs) < n {
		w.bufs = append(w.bufs, nil)
	}
	for i := range n {
		if uint64(cap(w.bufs[i])) < size {
			w.bufs[i] = make([]byte, uint64(1)<<bits.Len64(size-1))
		}
		w.bufs[i] = w.bufs[i][:size]
	}
	return w.bufs[:n]
}

// verify verifies one unit.
func (w *worker) verify(ctx context.Context, u *unit) error {
	if u.row {
		return w.verifyRow(ctx, u)
	}
	places, err := w.s.vol.Map(u.start, u.length)
	if err != nil {
		return err
	}
	copies := disk.ProfileOf(u.chunk.Type).Copies
	at := make([]volume.Place, copies)
	for _, p := range places {
		if p.Mirror >= 1 && p.Mirror <= copies && p.Logical == u.start {
			at[p.Mirror-1] = p
		}
	}
	for m := range copies {
		w.countCopy(u, &at[m])
	}
	if !w.quick(ctx, u, copies) {
		w.slow(ctx, u, at)
	}
	w.s.progress(u.length * uint64(copies))
	return nil
}

// slow reads all copies of a unit and verifies them granule by granule, side by
// side, so that what is wrong with one can be put right from another.
func (w *worker) slow(ctx context.Context, u *unit, at []volume.Place) {
	bufs := w.buffers(len(at), u.length)
	w.unread = make([][]bool, len(at))
	for m := range bufs {
		if err := w.s.vol.ReadMirror(ctx, u.start, bufs[m], m+1); err != nil {
			w.readSlowly(ctx, u, m, bufs[m])
		}
	}
	for i := range u.pieces {
		w.piece(u, &u.pieces[i], bufs, at)
	}
}

// readSlowly reads sector by sector what could not be read at once.
func (w *worker) readSlowly(ctx context.Context, u *unit, m int, buf []byte) {
	sector := uint64(w.s.geo.SectorSize)
	bad := make([]bool, u.length/sector+1)
	for o := uint64(0); o < u.length; o += sector {
		n := min(sector, u.length-o)
		if err := w.s.vol.ReadMirror(ctx, u.start+disk.Logical(o), buf[o:o+n], m+1); err != nil {
			bad[o/sector] = true
			clear(buf[o : o+n])
			if errors.Is(err, volume.ErrMissingDevice) {
				for i := range bad {
					bad[i] = true
				}
				break
			}
		}
	}
	w.unread[m] = bad
}

// countCopy counts what one copy of a unit has.
func (w *worker) countCopy(u *unit, p *volume.Place) {
	w.s.count(p.Dev, func(d *DeviceStats) {
		for i := range u.pieces {
			x := &u.pieces[i]
			switch {
			case p.Missing:
				d.MissingBytesScrubbed += x.length
			case x.tree:
				d.TreeExtentsScrubbed++
				d.TreeBytesScrubbed += x.length
			default:
				d.DataExtentsScrubbed++
				d.DataBytesScrubbed += x.length
				if x.sums == nil {
					d.NoCsum += x.length / uint64(w.s.geo.SectorSize)
				}
			}
		}
		d.LastPhysical = max(d.LastPhysical, p.Off+u.length)
	})
}

// granule is what one checksum is about.
func (w *worker) granule(x *piece) uint64 {
	if x.tree {
		return x.length
	}
	return uint64(w.s.geo.SectorSize)
}

// piece verifies one piece of all copies, and repairs.
func (w *worker) piece(u *unit, x *piece, bufs [][]byte, at []volume.Place) {
	g := w.granule(x)
	if !x.tree && x.sums == nil {
		w.compare(u, x, bufs, at)
		return
	}
	for o := uint64(0); o < x.length; o += g {
		n := min(g, x.length-o)
		var why [16]error
		good := -1
		bad := false
		for m := range bufs {
			b := bufs[m][x.off+o : x.off+o+n]
			err := w.judge(u, x, o, b)
			if w.lost(m, x.off+o, n) {
				err = errRead
			}
			if m < len(why) {
				why[m] = err
			}
			if err == nil && good < 0 {
				good = m
			}
			bad = bad || err != nil
		}
		if !bad {
			continue
		}
		for m := range bufs {
			if why[m] != nil && !at[m].Missing {
				w.badCopy(u, x, o, n, m, good, why[m], bufs, at)
			}
		}
	}
}

var errRead = errors.New("the device does not give the bytes")

// lost says whether a part of mirror m could not be read.
func (w *worker) lost(m int, off, n uint64) bool {
	if m >= len(w.unread) || w.unread[m] == nil {
		return false
	}
	sector := uint64(w.s.geo.SectorSize)
	return slices.Contains(w.unread[m][off/sector:(off+n-1)/sector+1], true)
}

// judge verifies the checksum of one granule.
func (w *worker) judge(u *unit, x *piece, o uint64, b []byte) error {
	t := w.s.geo.CsumType
	if !x.tree {
		size := uint64(t.Size())
		i := o / uint64(w.s.geo.SectorSize) * size
		if !csum.Verify(t, x.sums[i:i+size], b) {
			return errors.New("checksum mismatch")
		}
		return nil
	}
	n := disk.Node(b)
	switch {
	case !csum.Verify(t, n.Csum(), n.Body()):
		return errors.New("checksum mismatch")
	case n.Bytenr() != u.start+disk.Logical(x.off+o):
		return fmt.Errorf("the tree block says that it stands at %d", uint64(n.Bytenr()))
	case !slices.Contains(w.s.fsids, n.FSID()):
		return fmt.Errorf("the tree block belongs to filesystem %v", n.FSID())
	case x.gen != 0 && n.Generation() != x.gen:
		return fmt.Errorf("generation %d, want %d", n.Generation(), x.gen)
	}
	return nil
}

// badCopy reports one bad granule of mirror m, after having tried to repair it
// from mirror good.
func (w *worker) badCopy(u *unit, x *piece, o, n uint64, m, good int, why error, bufs [][]byte, at []volume.Place) {
	p := Problem{Kind: KindData, Dev: at[m].Dev, Physical: at[m].Off + x.off + o, Logical: u.start + disk.Logical(x.off+o), Length: n, Mirror: m + 1,
		What: why.Error(), Correctable: good >= 0, Tree: x.tree}
	switch {
	case errors.Is(why, errRead):
		p.Kind = KindRead
	case x.tree:
		p.Kind = KindTree
	}
	if good >= 0 && w.s.o.Repair {
		p.Corrected, p.What = w.rewrite(p.Dev, p.Physical, bufs[good][x.off+o:x.off+o+n], p.What)
	}
	w.s.report(p)
}

// rewrite overwrites a bad granule and reads it back.
func (w *worker) rewrite(id disk.DevID, phys uint64, good []byte, what string) (bool, string) {
	w.s.mu.Lock()
	d := w.s.devs[id]
	w.s.mu.Unlock()
	if d == nil || d.dev == nil || w.s.sb.IncompatFlags&disk.IncompatRaidStripeTree != 0 {
		return false, what
	}
	if _, err := d.dev.WriteAt(good, int64(phys)); err != nil {
		return false, fmt.Sprintf("%s; writing the good copy: %v", what, err)
	}
	back := make([]byte, len(good))
	if n, err := d.dev.ReadAt(back, int64(phys)); n < len(back) || !bytes.Equal(back, good) {
		return false, fmt.Sprintf("%s; what was written cannot be read back: %v", what, err)
	}
	return true, what
}

// compare compares the copies of data without checksums. Which one is right
// nobody can tell.
func (w *worker) compare(u *unit, x *piece, bufs [][]byte, at []volume.Place) {
	sector := uint64(w.s.geo.SectorSize)
	for o := uint64(0); o < x.length; o += sector {
		n := min(sector, x.length-o)
		first := -1
		for m := range bufs {
			switch {
			case w.lost(m, x.off+o, n):
				if !at[m].Missing {
					w.badCopy(u, x, o, n, m, -1, errRead, bufs, at)
				}
			case first < 0:
				first = m
			case !bytes.Equal(bufs[m][x.off+o:x.off+o+n], bufs[first][x.off+o:x.off+o+n]):
				w.s.report(Problem{Kind: KindNoSum, Dev: at[m].Dev, Physical: at[m].Off + x.off + o, Logical: u.start + disk.Logical(x.off+o), Length: n, Mirror: m + 1,
					What: fmt.Sprintf("differs from copy %d, and there is no checksum to tell which is right", first+1)})
			}
		}
	}
}
