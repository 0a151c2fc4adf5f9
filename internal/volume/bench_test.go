package volume

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/csum"
)

// benchArray is a filled chunk on files in memory.
func benchArray(b *testing.B, flags disk.BlockGroupFlags, n int) (*Volume, *chunk, []byte) {
	b.Helper()
	v, c, mem := arrayOf(flags, n, 4<<20, Options{})
	dir := "/dev/shm"
	if _, err := os.Stat(dir); err != nil {
		dir = os.TempDir()
	}
	dir, err := os.MkdirTemp(dir, "gobtrfs-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	data := make([]byte, c.Length)
	rand.NewChaCha8([32]byte{}).Read(data)
	naiveFill(b, c, mem, data)
	for i, m := range mem {
		f, err := blockdev.OpenFile(filepath.Join(dir, fmt.Sprint(i)), blockdev.FileOptions{Create: true, Size: m.Size()})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { f.Close() })
		buf := make([]byte, m.Size())
		if _, err := m.ReadAt(buf, 0); err != nil {
			b.Fatal(err)
		}
		if _, err := f.WriteAt(buf, 0); err != nil {
			b.Fatal(err)
		}
		v.devices[i].dev = f
	}
	return v, c, csum.AppendBlocks(nil, disk.CsumCRC32C, data, 4096)
}

func BenchmarkReadData(b *testing.B) {
	for _, c := range []struct {
		name    string
		flags   disk.BlockGroupFlags
		n       int
		missing int
		size    int
		sums    bool
	}{
		{"single/4K", 0, 1, 0, 4 << 10, true},
		{"single/128K", 0, 1, 0, 128 << 10, true},
		{"single/1M", 0, 1, 0, 1 << 20, true},
		{"single/1M/nosum", 0, 1, 0, 1 << 20, false},
		{"RAID0x4/1M", disk.BlockGroupRAID0, 4, 0, 1 << 20, true},
		{"RAID0x4/1M/nosum", disk.BlockGroupRAID0, 4, 0, 1 << 20, false},
		{"RAID5x4/1M", disk.BlockGroupRAID5, 4, 0, 1 << 20, true},
		{"RAID5x4/1M/degraded", disk.BlockGroupRAID5, 4, 1, 1 << 20, true},
		{"RAID6x5/1M/degraded2", disk.BlockGroupRAID6, 5, 2, 1 << 20, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			v, ch, sums := benchArray(b, c.flags, c.n)
			for i := range c.missing {
				v.devices[i].dev = nil
			}
			buf := make([]byte, c.size)
			b.SetBytes(int64(c.size))
			b.ReportAllocs()
			off := 0
			for b.Loop() {
				if off+c.size > int(ch.Length) {
					off = 0
				}
				s := sums[off/4096*4 : (off+c.size)/4096*4]
				if !c.sums {
					s = nil
				}
				if err := v.ReadData(context.Background(), ch.Logical+disk.Logical(off), buf, s); err != nil {
					b.Fatal(err)
				}
				off += c.size
			}
		})
	}
}

func BenchmarkReadNode(b *testing.B) {
	s := newSynth()
	v, err := Open(context.Background(), s.write(b), Options{})
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, synthNodeSize)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		if err := v.ReadNode(context.Background(), synthLeaf, buf, nil); err != nil {
			b.Fatal(err)
		}
	}
}
