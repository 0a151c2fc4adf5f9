package blockdev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"unicode/utf16"
)

// GPT (UEFI specification 2.10, chapter 5): a header at block 1, an array of
// entries where it points, and a second header in the last block of the disk
// with its own array. Both carry CRC-32 checksums.

const (
	gptSignature   = "EFI PART"
	gptHeaderMin   = 92
	gptEntryMin    = 128
	gptEntryMax    = 4096
	gptMaxEntries  = 1024 // Linux and Windows make 128
	gptNameOff     = 56
	gptNameMaxSize = 72
	gptMaxBlock    = 1 << 50 // so that bytes fit an int64
)

// readGPT reads the primary table, or the backup when the primary is damaged
// but there.
func readGPT(d Device) ([]Partition, error) {
	var damage error
	for _, sector := range sectorSizes {
		parts, err := readGPTHeader(d, sector, sector)
		if err == nil {
			return parts, nil
		}
		if !errors.Is(err, ErrNoTable) {
			damage = errors.Join(damage, fmt.Errorf("primary GPT: %w", err))
		}
	}
	for _, sector := range sectorSizes {
		last := (d.Size()/sector - 1) * sector
		parts, err := readGPTHeader(d, last, sector)
		if err == nil {
			why := "primary GPT: " + ErrNoTable.Error()
			if damage != nil {
				why = damage.Error()
			}
			for i := range parts {
				parts[i].damage(why)
			}
			return parts, nil
		}
		if !errors.Is(err, ErrNoTable) {
			damage = errors.Join(damage, fmt.Errorf("backup GPT: %w", err))
		}
	}
	if damage == nil {
		return nil, ErrNoTable
	}
	return nil, damage
}

// readGPTHeader reads the header at off and its entries. ErrNoTable means that
// there is no header.
func readGPTHeader(d Device, off, sector int64) ([]Partition, error) {
	h, err := readFull(d, off, sector)
	if err != nil || string(h[:8]) != gptSignature {
		return nil, errors.Join(ErrNoTable, err)
	}
	le := binary.LittleEndian
	size := le.Uint32(h[12:])
	if size < gptHeaderMin || int64(size) > sector {
		return nil, fmt.Errorf("header of %d bytes", size)
	}
	head := bytes.Clone(h[:size])
	clear(head[16:20]) // the checksum is over the header with this field zero
	if sum := crc32.ChecksumIEEE(head); sum != le.Uint32(h[16:]) {
		return nil, fmt.Errorf("header checksum %#08x, want %#08x", le.Uint32(h[16:]), sum)
	}
	if my := le.Uint64(h[24:]); my != uint64(off/sector) {
		return nil, fmt.Errorf("header says that it stands at block %d, not %d", my, off/sector)
	}
	first, count, entry := le.Uint64(h[72:]), le.Uint32(h[80:]), le.Uint32(h[84:])
	if entry < gptEntryMin || entry > gptEntryMax || entry%8 != 0 || count > gptMaxEntries {
		return nil, fmt.Errorf("%d entries of %d bytes", count, entry)
	}
	if first > uint64(d.Size()/sector) {
		return nil, fmt.Errorf("entries at block %d, behind the end", first)
	}
	array, err := readFull(d, int64(first)*sector, int64(count)*int64(entry))
	if err != nil {
		return nil, fmt.Errorf("entries: %w", err)
	}
	if sum := crc32.ChecksumIEEE(array); sum != le.Uint32(h[88:]) {
		return nil, fmt.Errorf("checksum of the entries %#08x, want %#08x", le.Uint32(h[88:]), sum)
	}
	return gptEntries(d, array, int(entry), sector)
}

func gptEntries(d Device, array []byte, entry int, sector int64) ([]Partition, error) {
	le := binary.LittleEndian
	var out []Partition
	for i := 0; (i+1)*entry <= len(array); i++ {
		e := array[i*entry : (i+1)*entry]
		if [16]byte(e) == [16]byte{} {
			continue // not used
		}
		first, last := le.Uint64(e[32:]), le.Uint64(e[40:])
		if first == 0 || last < first || last >= gptMaxBlock {
			return nil, fmt.Errorf("partition %d: blocks %d to %d: %w", i+1, first, last, ErrRange)
		}
		p := Partition{
			Number: i + 1, Start: int64(first) * sector, Size: int64(last-first+1) * sector, Table: "gpt",
			Type: guid(e), GUID: guid(e[16:]), Name: gptName(e[gptNameOff:]),
		}
		p.checkEnd(d.Size())
		out = append(out, p)
	}
	return out, nil
}

// guid is the text form of a GUID, whose first three parts stand little-endian.
func guid(b []byte) string {
	le := binary.LittleEndian
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

// gptName decodes the UTF-16 name up to its first zero.
func gptName(b []byte) string {
	var u []uint16
	for i := 0; i+1 < min(len(b), gptNameMaxSize); i += 2 {
		c := binary.LittleEndian.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return strings.ToValidUTF8(string(utf16.Decode(u)), "\uFFFD")
}
