package txn

import (
	"context"
	"fmt"
	"slices"

	"gobtrfs/disk"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/volume"
)

func csumKey(at disk.Logical) disk.Key {
	return disk.Key{ObjectID: disk.ExtentCsumObjectID, Type: disk.KeyExtentCsum, Offset: uint64(at)}
}

// maxSums is the largest number of checksums in one item (kernel:
// MAX_CSUM_ITEMS, Linux 6.18).
func (f *FS) maxSums() int {
	size := f.geometry.CsumType.Size()
	return min((disk.LeafDataSize(f.geometry.NodeSize)-2*disk.ItemHeaderSize)/size-1, 4096/size*size)
}

// AddCsums enters the checksums of data at addr, one a sector. They go on
// where the item before them ends, if it does and has room.
//
// REQUIRES: the writer, and that the range has none.
func (f *FS) AddCsums(ctx context.Context, addr disk.Logical, sums []byte) error {
	size := f.geometry.CsumType.Size()
	limit := f.maxSums() * size
	for len(sums) > 0 {
		it, ok, err := f.csum.Floor(ctx, csumKey(addr))
		if err != nil {
			return err
		}
		n := min(len(sums), limit)
		if ok && it.Key.Type == disk.KeyExtentCsum && f.csumEnd(it) == addr && len(it.Data) < limit {
			n = min(n, limit-len(it.Data))
			data := append(slices.Clone(it.Data), sums[:n]...)
			err = f.csum.Update(ctx, it.Key, data)
		} else {
			err = f.csum.Insert(ctx, csumKey(addr), slices.Clone(sums[:n]))
		}
		if err != nil {
			return err
		}
		addr += disk.Logical(n / size * f.geometry.SectorSize)
		sums = sums[n:]
	}
	return nil
}

// csumEnd is the first address behind those that an item has checksums of.
func (f *FS) csumEnd(it btree.Item) disk.Logical {
	return disk.Logical(it.Key.Offset) + disk.Logical(len(it.Data)/f.geometry.CsumType.Size()*f.geometry.SectorSize)
}

// HasCsums says whether any of n bytes of data at addr has a checksum.
//
// REQUIRES: the writer.
func (f *FS) HasCsums(ctx context.Context, addr disk.Logical, n uint64) (bool, error) {
	if f.csum == nil {
		return false, nil
	}
	it, ok, err := f.csum.Floor(ctx, csumKey(addr+disk.Logical(n)-1))
	return ok && it.Key.Type == disk.KeyExtentCsum && f.csumEnd(it) > addr, err
}

// Sums returns the checksums of n bytes of data at addr; ok is false unless
// every sector has one.
//
// REQUIRES: the writer.
func (f *FS) Sums(ctx context.Context, addr disk.Logical, n uint64) (sums []byte, ok bool, err error) {
	size, sector := f.geometry.CsumType.Size(), disk.Logical(f.geometry.SectorSize)
	for end := addr + disk.Logical(n); addr < end; {
		it, ok, err := f.csum.Floor(ctx, csumKey(addr))
		if err != nil || !ok || it.Key.Type != disk.KeyExtentCsum || f.csumEnd(it) <= addr {
			return nil, false, err
		}
		first := int((addr - disk.Logical(it.Key.Offset)) / sector)
		last := int((min(end, f.csumEnd(it)) - disk.Logical(it.Key.Offset)) / sector)
		sums = append(sums, it.Data[first*size:last*size]...)
		addr += disk.Logical(last-first) * sector
	}
	return sums, true, nil
}

// dropCsums removes the checksums of an extent of data that nobody refers to.
func (f *FS) dropCsums(ctx context.Context, h *head) error {
	if h.level != dataLevel || f.csum == nil {
		return nil
	}
	return f.clearCsums(ctx, h.addr, h.addr+disk.Logical(h.size))
}

// clearCsums removes the checksums of a range.
func (f *FS) clearCsums(ctx context.Context, start, end disk.Logical) error {
	size, sector := f.geometry.CsumType.Size(), disk.Logical(f.geometry.SectorSize)
	for at := end - 1; ; {
		// From the end: what is cut off the head of the last item moves its
		// key, and must not be met again.
		it, ok, err := f.csum.Floor(ctx, csumKey(at))
		if err != nil {
			return err
		}
		if !ok || it.Key.Type != disk.KeyExtentCsum || f.csumEnd(it) <= start {
			return nil
		}
		from, to := disk.Logical(it.Key.Offset), f.csumEnd(it)
		if len(it.Data)%size != 0 {
			return &volume.CorruptError{Tree: disk.TreeCsum, Key: it.Key, What: "checksum item",
				Err: fmt.Errorf("%w: %d bytes", disk.ErrFormat, len(it.Data))}
		}
		head, tail := []byte(nil), []byte(nil)
		if from < start {
			head = slices.Clone(it.Data[:int((start-from)/sector)*size])
		}
		if to > end {
			tail = slices.Clone(it.Data[int((end-from)/sector)*size:])
		}
		if err := f.replaceCsums(ctx, it.Key, head, end, tail); err != nil {
			return err
		}
		if from <= start {
			return nil
		}
		at = from - 1
	}
}

// replaceCsums leaves head of the item at k, and makes an item of tail at end.
func (f *FS) replaceCsums(ctx context.Context, k disk.Key, head []byte, end disk.Logical, tail []byte) error {
	var err error
	if len(head) > 0 {
		err = f.csum.Update(ctx, k, head)
	} else {
		err = f.csum.Delete(ctx, k)
	}
	if err == nil && len(tail) > 0 {
		err = f.csum.Insert(ctx, csumKey(end), tail)
	}
	return err
}
