package btrfs_test

import (
	"context"
	"fmt"
	"testing"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/mkfs"
)

// emptyInMemory makes a filesystem in memory and opens it for writing.
func emptyInMemory(b *testing.B, size int64) (*btrfs.FS, *btrfs.Editor) {
	b.Helper()
	ctx := context.Background()
	m := blockdev.NewMemory(size)
	_, err := mkfs.Make(ctx, []blockdev.Device{m}, mkfs.Options{})
	must(b, err)
	f, err := btrfs.OpenDevices(ctx, []blockdev.Device{m}, btrfs.Options{Writable: true})
	must(b, err)
	b.Cleanup(func() { must(b, f.Close()) })
	top, err := f.TopLevel(ctx)
	must(b, err)
	e, err := top.Edit()
	must(b, err)
	return f, e
}

// BenchmarkCreate makes files in one directory, empty or with 4 KiB, and makes
// them durable; BenchmarkRemove takes such files away again. What one costs
// should grow like the depth of the trees: compare the numbers of files.
func BenchmarkCreate(b *testing.B) {
	for _, size := range []int{0, 4096} {
		for _, files := range []int{10_000, 100_000, 1_000_000} {
			b.Run(fmt.Sprintf("size=%d/files=%d", size, files), func(b *testing.B) {
				if testing.Short() && files > 10_000 {
					b.Skip("large")
				}
				for b.Loop() {
					b.StopTimer()
					f, e := emptyInMemory(b, 16<<30)
					b.StartTimer()
					createMany(b, e, 0, files, size)
					must(b, f.Sync(b.Context()))
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*files), "ns/file")
			})
		}
	}
}

func createMany(b *testing.B, e *btrfs.Editor, from, to, size int) {
	b.Helper()
	ctx := context.Background()
	data := make([]byte, size)
	for i := from; i < to; i++ {
		name := fmt.Sprintf("/f%08d", i)
		must(b, e.Create(ctx, name, btrfs.Attr{Perm: 0o644}))
		if size > 0 {
			data[0], data[1], data[2] = byte(i), byte(i>>8), byte(i>>16)
			_, err := e.WriteAt(ctx, name, data, 0)
			must(b, err)
		}
	}
}

func BenchmarkRemove(b *testing.B) {
	const files = 100_000
	for b.Loop() {
		b.StopTimer()
		f, e := emptyInMemory(b, 16<<30)
		createMany(b, e, 0, files, 0)
		must(b, f.Sync(b.Context()))
		b.StartTimer()
		for i := range files {
			must(b, e.Remove(b.Context(), fmt.Sprintf("/f%08d", i)))
		}
		must(b, f.Sync(b.Context()))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*files), "ns/file")
}
