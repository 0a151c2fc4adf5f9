package blockdev

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// golden is a disk from testdata.
func golden(t *testing.T, name string) *Memory {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	d := NewMemory(int64(len(b))).Named(name)
	if _, err := d.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return d
}

const mib = 1 << 20

func TestPartitionsOfSfdisk(t *testing.T) {
	for _, c := range []struct {
		name string
		want []Partition
	}{
		{"gpt", []Partition{
			{Number: 1, Start: mib, Size: mib / 2, Table: "gpt", Type: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", GUID: "11111111-2222-3333-4444-555555555555", Name: "boot ä"},
			{Number: 2, Start: 2 * mib, Size: mib, Table: "gpt", Type: "0fc63daf-8483-4772-8e79-3d69d8477de4", GUID: "21111111-2222-3333-4444-555555555555"},
		}},
		{"gpt-gap", []Partition{
			{Number: 3, Start: mib, Size: mib, Table: "gpt", Type: "0fc63daf-8483-4772-8e79-3d69d8477de4", GUID: "11111111-2222-3333-4444-555555555555"},
		}},
		{"mbr", []Partition{
			{Number: 1, Start: mib, Size: mib / 2, Table: "mbr", Type: "0x83"},
			{Number: 2, Start: 2 * mib, Size: mib, Table: "mbr", Type: "0x0c"},
		}},
		{"mbr-logical", []Partition{
			{Number: 1, Start: 64 * 512, Size: 64 * 512, Table: "mbr", Type: "0x83"},
			{Number: 5, Start: 512 * 512, Size: 128 * 512, Table: "mbr", Type: "0x83"},
			{Number: 6, Start: 1024 * 512, Size: 256 * 512, Table: "mbr", Type: "0x83"},
			{Number: 7, Start: 2048 * 512, Size: 100 * 512, Table: "mbr", Type: "0x82"},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := golden(t, c.name)
			got, err := Partitions(d)
			if err != nil || !slices.Equal(got, c.want) {
				t.Fatalf("got %+v, %v\nwant %+v", got, err, c.want)
			}
			mark := []byte("here it begins")
			last := c.want[len(c.want)-1]
			if _, err := d.WriteAt(mark, last.Start); err != nil {
				t.Fatal(err)
			}
			p, err := OpenPartition(d, last.Number)
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, len(mark))
			if _, err := p.ReadAt(b, 0); err != nil || !bytes.Equal(b, mark) || p.Size() != last.Size {
				t.Errorf("read %q, %v; size %d", b, err, p.Size())
			}
			if _, err := OpenPartition(d, 99); err == nil {
				t.Error("partition 99 opens")
			}
		})
	}
}

// gptImage is a small disk with a GPT of one partition, in sectors of the
// given size.
func gptImage(t testing.TB, sector int64) *Memory {
	t.Helper()
	const blocks = 2048
	d := NewMemory(blocks * sector)
	le := binary.LittleEndian
	mbr := make([]byte, 512)
	mbr[mbrTable+4] = mbrProtective
	le.PutUint32(mbr[mbrTable+8:], 1)
	le.PutUint32(mbr[mbrTable+12:], blocks-1)
	mbr[510], mbr[511] = 0x55, 0xaa
	array := make([]byte, 128*128)
	copy(array, bytes.Repeat([]byte{0xaf}, 32))
	le.PutUint64(array[32:], 100)
	le.PutUint64(array[40:], 199)
	header := func(my, other, entries uint64) []byte {
		h := make([]byte, sector)
		copy(h, gptSignature)
		le.PutUint32(h[8:], 0x10000)
		le.PutUint32(h[12:], gptHeaderMin)
		le.PutUint64(h[24:], my)
		le.PutUint64(h[32:], other)
		le.PutUint64(h[72:], entries)
		le.PutUint32(h[80:], 128)
		le.PutUint32(h[84:], 128)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(array))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:gptHeaderMin]))
		return h
	}
	for _, w := range []struct {
		off int64
		b   []byte
	}{
		{0, mbr}, {sector, header(1, blocks-1, 2)}, {2 * sector, array},
		{(blocks - 1) * sector, header(blocks-1, 1, blocks-40)}, {(blocks - 40) * sector, array},
	} {
		if _, err := d.WriteAt(w.b, w.off); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func TestDamagedGPT(t *testing.T) {
	const s = 512
	for _, c := range []struct {
		name   string
		off    int64
		bytes  []byte
		damage string // expected in Partition.Damage; "" for none
		err    string // expected error; "" for none
	}{
		{"sound", 0, nil, "", ""},
		{"primary header flipped", s + 40, []byte{1}, "header checksum", ""},
		{"primary header gone", s, make([]byte, s), "no partition table", ""},
		{"primary entries flipped", 2*s + 33, []byte{9}, "checksum of the entries", ""},
		{"protective MBR gone", 0, make([]byte, s), "", ""},
		{"backup gone", 2047 * s, make([]byte, s), "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := gptImage(t, s)
			if _, err := d.WriteAt(c.bytes, c.off); err != nil {
				t.Fatal(err)
			}
			got, err := Partitions(d)
			if err != nil || len(got) != 1 || got[0].Start != 100*s || got[0].Size != 100*s {
				t.Fatalf("got %+v, %v", got, err)
			}
			if !strings.Contains(got[0].Damage, c.damage) || c.damage == "" && got[0].Damage != "" {
				t.Errorf("damage %q, want %q", got[0].Damage, c.damage)
			}
		})
	}
	t.Run("sectors of 4096", func(t *testing.T) {
		got, err := Partitions(gptImage(t, 4096))
		if err != nil || len(got) != 1 || got[0].Start != 100*4096 || got[0].Damage != "" {
			t.Errorf("got %+v, %v", got, err)
		}
	})
	t.Run("both headers damaged", func(t *testing.T) {
		d := gptImage(t, s)
		for _, off := range []int64{s + 40, 2047*s + 40} {
			if _, err := d.WriteAt([]byte{1}, off); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Partitions(d); err == nil || !strings.Contains(err.Error(), "backup GPT") {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("truncated disk", func(t *testing.T) {
		d, err := Section(gptImage(t, s), 0, 150*s)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Partitions(d)
		if err != nil || len(got) != 1 || !strings.Contains(got[0].Damage, "behind the disk's end") {
			t.Fatalf("got %+v, %v", got, err)
		}
		if _, err := OpenPartition(d, 1); !errors.Is(err, ErrRange) {
			t.Errorf("opening it: %v", err)
		}
	})
}

func TestHostileMBR(t *testing.T) {
	le := binary.LittleEndian
	entry := func(b []byte, i int, typ byte, start, count uint32) {
		b[mbrTable+16*i+4] = typ
		le.PutUint32(b[mbrTable+16*i+8:], start)
		le.PutUint32(b[mbrTable+16*i+12:], count)
		b[510], b[511] = 0x55, 0xaa
	}
	for _, c := range []struct {
		name  string
		build func(mbr, ebr []byte) // ebr stands in block 10
		want  string
	}{
		{"chain that bites its tail", func(mbr, ebr []byte) {
			entry(mbr, 0, 5, 10, 100)
			entry(ebr, 0, 0x83, 1, 1)
			entry(ebr, 1, 5, 0, 1)
		}, "link to block 0"},
		{"link behind the extended partition", func(mbr, ebr []byte) {
			entry(mbr, 0, 5, 10, 100)
			entry(ebr, 1, 5, 4_000_000_000, 1)
		}, "link to block"},
		{"no signature in the chain", func(mbr, _ []byte) { entry(mbr, 0, 0xf, 10, 100) }, "no signature"},
		{"extended partition behind the end", func(mbr, _ []byte) { entry(mbr, 0, 5, 4_000_000_000, 100) }, "outside the device"},
		{"boot sector of a filesystem", func(mbr, _ []byte) {
			entry(mbr, 0, 0x83, 1, 1)
			mbr[mbrTable] = 0x33
		}, "no partition table"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := NewMemory(mib)
			mbr, ebr := make([]byte, 512), make([]byte, 512)
			c.build(mbr, ebr)
			if _, err := d.WriteAt(mbr, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := d.WriteAt(ebr, 10*512); err != nil {
				t.Fatal(err)
			}
			if _, err := Partitions(d); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("err = %v, want %q", err, c.want)
			}
		})
	}
	// Two blocks that point to each other: every link is legal, the chain is
	// not.
	d := NewMemory(mib)
	for i, at := range []int64{0, 10, 20, 10} {
		b := make([]byte, 512)
		switch i {
		case 0:
			entry(b, 0, 5, 5, 100)
		case 1, 2:
			entry(b, 0, 0x83, 1, 1)
			entry(b, 1, 5, uint32(25-at), 1) // 10 -> 20, 20 -> 10, from base 5
		case 3:
			continue
		}
		if _, err := d.WriteAt(b, at*512); err != nil {
			t.Fatal(err)
		}
	}
	b := make([]byte, 512)
	entry(b, 1, 5, 5, 1)
	if _, err := d.WriteAt(b, 5*512); err != nil {
		t.Fatal(err)
	}
	if _, err := Partitions(d); err == nil || !strings.Contains(err.Error(), "more than 256 links") {
		t.Errorf("loop of two: %v", err)
	}
}

func TestNoTable(t *testing.T) {
	for _, d := range []*Memory{NewMemory(0), NewMemory(100), NewMemory(mib)} {
		if _, err := Partitions(d); !errors.Is(err, ErrNoTable) {
			t.Errorf("%d bytes: %v", d.Size(), err)
		}
	}
}

// FuzzPartitions changes a sound GPT disk, with the checksums put right again
// when seal is set, and lays the bytes over an MBR too.
func FuzzPartitions(f *testing.F) {
	f.Add([]byte{0, 84, 1}, true, false)
	f.Add([]byte{1, 40, 255}, true, false)
	f.Add([]byte{0, 12, 0xff}, false, false)
	f.Add([]byte{0, 194, 5, 0, 202, 1}, false, true)
	f.Fuzz(func(t *testing.T, edits []byte, seal, mbr bool) {
		d := gptImage(t, 512)
		head := make([]byte, 34*512)
		if _, err := d.ReadAt(head, 0); err != nil {
			t.Fatal(err)
		}
		for ; len(edits) >= 3; edits = edits[3:] {
			at := int(edits[0])<<8 | int(edits[1])
			if mbr {
				at = mbrTable + at%66
			} else {
				at += 512
			}
			head[at%len(head)] ^= edits[2]
		}
		if mbr {
			head[mbrTable+4] ^= mbrProtective // an MBR that is meant
		}
		if seal {
			le := binary.LittleEndian
			h := head[512:1024]
			if n, size := uint64(le.Uint32(h[80:]))*uint64(le.Uint32(h[84:])), uint64(len(head)-1024); n <= size {
				le.PutUint32(h[88:], crc32.ChecksumIEEE(head[1024:1024+n]))
			}
			clear(h[16:20])
			if n := le.Uint32(h[12:]); n <= 512 {
				le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:n]))
			}
		}
		if _, err := d.WriteAt(head, 0); err != nil {
			t.Fatal(err)
		}
		parts, err := Partitions(d)
		if err != nil {
			return
		}
		if len(parts) > gptMaxEntries {
			t.Fatalf("%d partitions", len(parts))
		}
		for _, p := range parts {
			if p.Start < 0 || p.Size <= 0 || p.Start+p.Size < p.Start {
				t.Fatalf("partition %+v", p)
			}
			inside := p.Start+p.Size <= d.Size()
			if _, err := OpenPartition(d, p.Number); (err == nil) != inside {
				t.Fatalf("partition %+v of %d bytes: %v", p, d.Size(), err)
			}
		}
	})
}
