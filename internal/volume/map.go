package volume

import (
	"fmt"

	"gobtrfs/disk"
)

// Physical is a place on a device.
type Physical struct {
	Dev disk.DevID
	Off uint64 // bytes
}

// Place is where a contiguous piece of one mirror stands.
type Place struct {
	Physical
	Logical disk.Logical
	Length  uint64
	Mirror  int    // 1 to the number of copies; 0 for parity
	Stripe  int    // index into the chunk's stripes
	Parity  string // "P" or "Q" for the parity of the row that holds Logical, else ""
	Missing bool
}

// Map says where the n bytes at l stand: every contiguous piece of every copy,
// by logical address and then by mirror, and for RAID5 and RAID6 the parity of
// the same bytes. The range must lie in one chunk. Data that the
// raid-stripe-tree places elsewhere is not looked up there.
func (v *Volume) Map(l disk.Logical, n uint64) ([]Place, error) {
	c := v.chunks.Load().find(l)
	if c == nil || n > c.Length-uint64(l-c.Logical) {
		return nil, &CorruptError{Logical: l, What: fmt.Sprintf("no chunk maps %d bytes", n), Err: ErrUnmapped}
	}
	off := uint64(l - c.Logical)
	var out []Place
	for n > 0 {
		piece := min(c.locate(off, 1).n, n)
		place := func(stripe int, phys uint64, mirror int, parity string) {
			d := c.devs[stripe]
			out = append(out, Place{Physical{d.id, phys}, c.Logical + disk.Logical(off), piece, mirror, stripe, parity, d.dev == nil})
		}
		for m := 1; m <= c.profile.Copies; m++ {
			s := c.locate(off, m)
			place(s.stripe, s.phys, m, "")
		}
		for p := range c.profile.Parity {
			row := off / disk.StripeLen / uint64(c.data)
			stripe := c.rotated(uint64(c.data+p), row)
			place(stripe, c.Stripes[stripe].Offset+row*disk.StripeLen+off%disk.StripeLen, 0, "PQ"[p:p+1])
		}
		off, n = off+piece, n-piece
	}
	return out, nil
}
