package scrub

import (
	"context"
	"fmt"
	"slices"

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

// rowParity compares the parity with the data of a row. While a data stripe is
// wrong nothing can be said.
func (w *worker) rowParity(u *unit, data, parity []rowStripe) {
	for i := range data {
		if data[i].bad {
			return
		}
	}
	unsure := slices.ContainsFunc(u.pieces, func(x piece) bool { return !x.tree && x.sums == nil })
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
	for i := range parity {
		p := &parity[i]
		if p.bad || string(p.buf) == string(fresh[i]) {
			continue
		}
		x := Problem{Kind: KindParity, Dev: p.place.Dev, Physical: p.place.Off, Logical: u.start, Length: disk.StripeLen, What: "parity " + p.place.Parity + " is not that of the data", Correctable: true}
		switch {
		case unsure:
			// The data may be what is wrong.
			x.Correctable, x.What = false, x.What+", and part of that has no checksum to tell which is right"
		case w.s.o.Repair:
			x.Corrected, x.What = w.rewrite(x.Dev, x.Physical, fresh[i], x.What)
		}
		w.s.report(x)
	}
}
