package blockdev

import (
	"errors"
	"fmt"
	"io"
)

// Partition is one entry of a disk's partition table.
type Partition struct {
	Number int    // from 1, as Linux counts them: logical MBR partitions from 5
	Start  int64  // bytes from the start of the disk
	Size   int64  // bytes
	Table  string // "gpt" or "mbr"
	Type   string // type GUID, or the MBR type byte as "0x83"
	GUID   string // the partition's own GUID, GPT only
	Name   string // GPT only
	// Damage says what is wrong: "primary GPT: …" when the backup table was
	// used, or that the partition reaches behind the end of the disk. Empty
	// when all is well.
	Damage string
}

func (p *Partition) damage(what string) {
	if p.Damage != "" {
		what = p.Damage + "; " + what
	}
	p.Damage = what
}

// checkEnd notes a partition that a truncated disk has only a part of.
func (p *Partition) checkEnd(size int64) {
	if p.Start > size || p.Size > size-p.Start {
		p.damage(fmt.Sprintf("ends at %d, behind the disk's end at %d", p.Start+p.Size, size))
	}
}

// ErrNoTable is wrapped when a device has no partition table.
var ErrNoTable = errors.New("no partition table")

// sectorSizes are the logical sector sizes that a table may be written for.
// An image does not tell; the place of the GPT header does. An MBR is always
// taken to count in 512 bytes.
var sectorSizes = [...]int64{512, 4096}

// Partitions reads d's partition table: GPT with its checksums, by its backup
// when the primary is damaged, or MBR with its extended partitions. Entries
// that reach behind the end of the device are listed with Damage; opening them
// fails.
func Partitions(d Device) ([]Partition, error) {
	mbr, err := readFull(d, 0, 512)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", d.Name(), ErrNoTable, err)
	}
	if !hasMBRSignature(mbr) {
		// The GPT may be there all the same: only its protective MBR is gone.
		parts, err := readGPT(d)
		if errors.Is(err, ErrNoTable) {
			return nil, fmt.Errorf("%s: %w", d.Name(), ErrNoTable)
		}
		return parts, err
	}
	if isProtectiveMBR(mbr) {
		parts, err := readGPT(d)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.Name(), err)
		}
		return parts, nil
	}
	parts, err := readMBR(d, mbr)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Name(), err)
	}
	return parts, nil
}

// OpenPartition is partition number of d as a device of its own.
func OpenPartition(d Device, number int) (Device, error) {
	parts, err := Partitions(d)
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		if p.Number == number {
			return Section(d, p.Start, p.Size)
		}
	}
	return nil, fmt.Errorf("%s: no partition %d among %d", d.Name(), number, len(parts))
}

// readFull reads n bytes at off, all of them or none.
func readFull(d Device, off, n int64) ([]byte, error) {
	if err := checkRange(d.Name(), "read", off, n, d.Size()); err != nil {
		return nil, err
	}
	b := make([]byte, n)
	if got, err := d.ReadAt(b, off); int64(got) < n {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}
