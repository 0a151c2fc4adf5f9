package blockdev

import (
	"encoding/binary"
	"fmt"
)

// MBR: four entries in block 0; one of them may be an extended partition, a
// chain of blocks each of which holds one logical partition and a pointer to
// the next. Positions in the chain count from the extended partition's start,
// the logical partition's from its own block.

const (
	mbrSector     = 512
	mbrTable      = 446
	mbrProtective = 0xee
	mbrMaxLogical = 256 // bounds the chain; Linux stops at 256 partitions too
)

type mbrEntry struct {
	typ          byte
	start, count uint32 // blocks
}

func mbrEntries(b []byte) (out [4]mbrEntry) {
	for i := range out {
		e := b[mbrTable+16*i:]
		out[i] = mbrEntry{e[4], binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])}
	}
	return out
}

func (e mbrEntry) used() bool { return e.typ != 0 && e.count != 0 }

func (e mbrEntry) extended() bool { return e.typ == 0x05 || e.typ == 0x0f || e.typ == 0x85 }

func hasMBRSignature(b []byte) bool { return b[510] == 0x55 && b[511] == 0xaa }

// isProtectiveMBR says whether the MBR only keeps the place for a GPT. A hybrid
// MBR has such an entry too, and its GPT is the truth.
func isProtectiveMBR(b []byte) bool {
	for _, e := range mbrEntries(b) {
		if e.typ == mbrProtective {
			return true
		}
	}
	return false
}

// readMBR reads the primary partitions and the logical ones. A block that has
// the signature but no sound table, such as a boot sector of a filesystem
// without partitions, is ErrNoTable.
func readMBR(d Device, block []byte) ([]Partition, error) {
	var out []Partition
	for i, e := range mbrEntries(block) {
		if block[mbrTable+16*i]&0x7f != 0 {
			return nil, fmt.Errorf("%w: MBR entry %d has status %#02x", ErrNoTable, i+1, block[mbrTable+16*i])
		}
		if !e.used() {
			continue
		}
		if !e.extended() {
			out = append(out, mbrPartition(d, i+1, 0, e))
			continue
		}
		logical, err := readExtended(d, int64(e.start), int64(e.count))
		if err != nil {
			return nil, err
		}
		out = append(out, logical...)
	}
	return out, nil
}

func mbrPartition(d Device, number int, base int64, e mbrEntry) Partition {
	p := Partition{
		Number: number, Start: (base + int64(e.start)) * mbrSector, Size: int64(e.count) * mbrSector,
		Table: "mbr", Type: fmt.Sprintf("0x%02x", e.typ),
	}
	p.checkEnd(d.Size())
	return p
}

// readExtended follows the chain in the extended partition of count blocks at
// base. The chain is bounded, so one that bites its tail ends in an error.
func readExtended(d Device, base, count int64) ([]Partition, error) {
	var out []Partition
	at := base
	for n := 0; ; n++ {
		if n == mbrMaxLogical {
			return nil, fmt.Errorf("extended partition with more than %d links", mbrMaxLogical)
		}
		block, err := readFull(d, at*mbrSector, mbrSector)
		if err != nil {
			return nil, fmt.Errorf("extended partition: %w", err)
		}
		if !hasMBRSignature(block) {
			return nil, fmt.Errorf("extended partition: no signature in block %d", at)
		}
		var next int64
		links := mbrEntries(block)
		for _, e := range links[:2] {
			switch {
			case !e.used():
			case e.extended():
				next = base + int64(e.start)
				if int64(e.start) == 0 || int64(e.start) >= count {
					return nil, fmt.Errorf("extended partition: link to block %d of %d: %w", e.start, count, ErrRange)
				}
			default:
				out = append(out, mbrPartition(d, 5+len(out), at, e))
			}
		}
		if next == 0 {
			return out, nil
		}
		at = next
	}
}
