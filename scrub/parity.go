package scrub

import (
	"bytes"
	"context"
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/raid6"
	"gobtrfs/internal/volume"
)

// rowStripe is one stripe of a full stripe: its place and what it holds.
type rowStripe struct {
	place volume.Place
	buf   []byte
	bad   bool // could not be read, or holds a granule that is wrong and was not repaired
}

// verifyRow verifies one full stripe of RAID5 or RAID6: the data in use by its
// checksums, then the parity against all data.
func (w *worker) verifyRow(ctx context.Context, u *unit) error {
	data, parity, err := w.readRow(ctx, u)
	if err != nil {
		return err
	}
	for i := range u.pieces {
		w.rowPiece(ctx, u, &u.pieces[i], data)
	}
	w.rowParity(u, data, parity)
	w.s.progress(u.length)
	return nil
}

// readRow reads all stripes of a row directly from their devices.
func (w *worker) readRow(ctx context.Context, u *unit) (data, parity []rowStripe, err error) {
	prof := disk.ProfileOf(u.chunk.Type)
	count := prof.DataStripes(len(u.chunk.Stripes))
	places, err := w.s.vol.Map(u.start, min(u.length, disk.StripeLen*uint64(count)))
	if err != nil {
		return nil, nil, err
	}
	bufs := w.buffers(count+prof.Parity, disk.StripeLen)
	for _, p := range places {
		if p.Parity == "" && len(data) < count {
			data = append(data, rowStripe{place: p, buf: bufs[len(data)]})
		}
		if p.Parity != "" && len(parity) < prof.Parity && p.Logical == u.start {
			parity = append(parity, rowStripe{place: p, buf: bufs[count+len(parity)]})
		}
	}
	for _, list := range [][]rowStripe{data, parity} {
		for i := range list {
			x := &list[i]
			x.bad = w.readPlace(x) != nil
			w.s.count(x.place.Dev, func(d *DeviceStats) {
				d.LastPhysical = max(d.LastPhysical, x.place.Off+disk.StripeLen)
				if x.place.Parity != "" && !x.bad {
					d.ParityBytesScrubbed += disk.StripeLen
				}
			})
		}
	}
	return data, parity, nil
}

func (w *worker) readPlace(x *rowStripe) error {
	w.s.mu.Lock()
	d := w.s.devs[x.place.Dev]
	w.s.mu.Unlock()
	if d == nil || d.dev == nil {
		clear(x.buf)
		return volume.ErrMissingDevice
	}
	if n, err := d.dev.ReadAt(x.buf, int64(x.place.Off)); n < len(x.buf) {
		clear(x.buf)
		if !x.place.Missing {
			w.s.report(Problem{Kind: KindRead, Dev: x.place.Dev, Physical: x.place.Off, Logical: x.place.Logical, Length: disk.StripeLen, What: fmt.Sprint(err)})
		}
		return errRead
	}
	return nil
}

// rowPiece verifies the granules of one piece, which may lie in several data
// stripes; a tree block may not.
func (w *worker) rowPiece(ctx context.Context, u *unit, x *piece, data []rowStripe) {
	g := w.granule(x)
	for o := uint64(0); o < x.length; o += g {
		n := min(g, x.length-o)
		at := x.off + o
		i := int(at / disk.StripeLen)
		if i >= len(data) || at%disk.StripeLen+n > disk.StripeLen {
			return
		}
		s := &data[i]
		w.s.count(s.place.Dev, func(d *DeviceStats) {
			switch {
			case x.tree:
				d.TreeBytesScrubbed += n
				d.TreeExtentsScrubbed++
			default:
				d.DataBytesScrubbed += n
				if x.sums == nil {
					d.NoCsum++
				}
			}
		})
		if !x.tree && x.sums == nil {
			continue
		}
		b := s.buf[at%disk.StripeLen : at%disk.StripeLen+n]
		if s.place.Missing {
			continue
		}
		if err := w.judge(u, x, o, b); err != nil {
			w.rebuildGranule(ctx, u, x, o, b, s, err)
		}
	}
}

// rebuildGranule reports a bad granule of a data stripe, and puts it right from
// the reconstruction whose checksum is good.
func (w *worker) rebuildGranule(ctx context.Context, u *unit, x *piece, o uint64, b []byte, s *rowStripe, why error) {
	at := x.off + o
	l := u.start + disk.Logical(at)
	p := Problem{Kind: KindData, Dev: s.place.Dev, Physical: s.place.Off + at%disk.StripeLen, Logical: l, Length: uint64(len(b)), Mirror: 1, What: why.Error(), Tree: x.tree}
	if x.tree {
		p.Kind = KindTree
	}
	good := make([]byte, len(b))
	for m := 2; m <= w.s.vol.Mirrors(l); m++ {
		if w.s.vol.ReadMirror(ctx, l, good, m) != nil || w.judge(u, x, o, good) != nil {
			continue
		}
		p.Correctable = true
		// The parity is compared with what the data should be.
		copy(b, good)
		if w.s.o.Repair {
			p.Corrected, p.What = w.rewrite(p.Dev, p.Physical, good, p.What)
		}
		break
	}
	if !p.Correctable {
		s.bad = true
	}
	w.s.report(p)
}

// column is what one sector's height of a row holds: parity is computed column
// by column, so only where something is in use does it stand for anything. Who
// writes a part of a row leaves the other columns as they were.
type column struct {
	summed bool // a tree block or data with a checksum is in it
	plain  bool // data without a checksum is in it, or space that is only preallocated
}

func (w *worker) columns(u *unit) []column {
	sector := uint64(w.s.geo.SectorSize)
	out := make([]column, disk.StripeLen/sector)
	for i := range u.pieces {
		x := &u.pieces[i]
		for at := x.off; at < x.off+x.length; at += sector {
			c := &out[at%disk.StripeLen/sector]
			if x.tree || x.sums != nil {
				c.summed = true
			} else {
				c.plain = true
			}
		}
	}
	return out
}

// rowParity compares the parity with the data of a row. While a data stripe is
// wrong nothing can be said.
func (w *worker) rowParity(u *unit, data, parity []rowStripe) {
	for i := range data {
		if data[i].bad {
			return
		}
	}
	bufs := make([][]byte, len(data))
	for i := range data {
		bufs[i] = data[i].buf
	}
	fresh := make([][]byte, 2)
	for i := range parity {
		fresh[i] = make([]byte, disk.StripeLen)
	}
	if err := raid6.Generate(bufs, fresh[0], fresh[1]); err != nil {
		return
	}
	var columns []column
	for i := range parity {
		if p := &parity[i]; !p.bad && !bytes.Equal(p.buf, fresh[i]) {
			if columns == nil {
				columns = w.columns(u)
			}
			w.badParity(u, p, fresh[i], columns)
		}
	}
}

// badParity reports the columns in which a parity stripe is not fresh, as it
// should be, those that are alike and follow each other at once.
func (w *worker) badParity(u *unit, p *rowStripe, fresh []byte, columns []column) {
	sector := uint64(w.s.geo.SectorSize)
	differs := func(k int) bool {
		lo := uint64(k) * sector
		return !bytes.Equal(p.buf[lo:lo+sector], fresh[lo:lo+sector])
	}
	for k := 0; k < len(columns); {
		c, first := columns[k], k
		for k < len(columns) && columns[k] == c && differs(k) {
			k++
		}
		if k == first {
			k++
			continue
		}
		lo, hi := uint64(first)*sector, uint64(k)*sector
		x := Problem{Kind: KindParity, Dev: p.place.Dev, Physical: p.place.Off + lo, Logical: u.start, Length: hi - lo,
			What: "parity " + p.place.Parity + " is not that of the data", Correctable: !c.plain}
		switch {
		case !c.summed && !c.plain:
			continue
		case !c.summed:
			w.plainParity(u, x, lo, hi)
			continue
		case c.plain: // the data may be what is wrong
			x.What += ", and part of that has no checksum to tell which is right"
		case w.s.o.Repair:
			x.Corrected, x.What = w.rewrite(x.Dev, x.Physical, fresh[lo:hi], x.What)
		}
		w.s.report(x)
	}
}

// plainParity reports p, about columns [lo, hi) that hold data without checksums
// only, for each sector that is in use there.
func (w *worker) plainParity(u *unit, p Problem, lo, hi uint64) {
	p.Kind, p.What = KindParityNoSum, p.What+", and there is no checksum to tell which is right"
	p.Length = uint64(w.s.geo.SectorSize)
	for i := range u.pieces {
		x := &u.pieces[i]
		for at := x.off; at < x.off+x.length; at += p.Length {
			if in := at % disk.StripeLen; lo <= in && in < hi {
				p.Logical = u.start + disk.Logical(at)
				w.s.report(p)
			}
		}
	}
}
