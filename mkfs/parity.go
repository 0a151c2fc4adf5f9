package mkfs

import (
	"fmt"
	"io"

	"gobtrfs/disk"
	"gobtrfs/internal/raid6"
)

// parityRow computes the parity of one row of a RAID5 or RAID6 chunk from what
// its data stripes hold. Of row r, data stripe k stands on stripe (r+k) mod n of
// the chunk, P behind the last of them and Q behind P.
func (m *maker) parityRow(c *chunk, row uint64) error {
	n := len(c.Stripes)
	p := disk.ProfileOf(c.Type)
	data := p.DataStripes(n)
	bufs := make([][]byte, n)
	for k := range bufs {
		bufs[k] = make([]byte, disk.StripeLen)
	}
	at := func(k int) (dev *device, off int64) {
		s := c.Stripes[(int(row%uint64(n))+k)%n]
		return m.layout.device(s.DevID), int64(s.Offset + row*disk.StripeLen)
	}
	for k := range data {
		d, off := at(k)
		if _, err := d.dev.ReadAt(bufs[k], off); err != nil && err != io.EOF {
			return err
		}
	}
	var q []byte
	if p.Parity == 2 {
		q = bufs[data+1]
	}
	if err := raid6.Generate(bufs[:data], bufs[data], q); err != nil {
		return fmt.Errorf("parity of chunk %d row %d: %w", c.Logical, row, err)
	}
	for k := data; k < n; k++ {
		d, off := at(k)
		if _, err := d.dev.WriteAt(bufs[k], off); err != nil {
			return err
		}
	}
	return nil
}
