package space_test

import (
	"context"
	"fmt"

	"gobtrfs/disk"
	"gobtrfs/internal/space"
)

// trees stands for the layer that owns the trees and the transactions.
type trees struct{ running disk.TransID }

// InsertChunk is phase 1 of a chunk: chunk item, device items, and the array
// in the superblock.
func (t *trees) InsertChunk(_ context.Context, c *space.Chunk, system *space.Reserve) (disk.TransID, error) {
	fmt.Printf("chunk item: %v at %d, %v\n", c.Flags, c.Start, c.Length)
	return t.running, nil
}

// The life of a tiny filesystem, as the transaction layer sees it.
func Example() {
	ctx := context.Background()
	t := &trees{running: 8}
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	group := func(start disk.Logical, length space.Bytes, flags disk.BlockGroupFlags) space.GroupSpec {
		return space.GroupSpec{Chunk: space.Chunk{
			Start: start, Length: length, Flags: flags, StripeSize: length,
			Stripes: []space.Stripe{{Dev: 1, Off: space.Physical(start)}},
		}}
	}

	// Open: devices, then chunks with their block groups.
	fs, err := space.New(space.Config{Writer: t, Loader: nil})
	must(err)
	defer fs.Close()
	must(fs.AddDevice(space.DeviceSpec{ID: 1, Size: 10 * space.GiB}))
	must(fs.AddGroup(group(1<<20, 8*space.MiB, disk.BlockGroupSystem)))
	must(fs.AddGroup(group(9<<20, 256*space.MiB, disk.BlockGroupMetadata)))
	fs.Open()
	units := space.Units{NodeSize: 16 * space.KiB}
	fs.GlobalReserve().Resize(units.GlobalReserveSize(0, true, true))

	// An operation reserves its worst case before it changes anything …
	must(fs.Metadata().Reserve(ctx, 2*units.Insert(), space.ClassNormal))
	must(fs.Data().Reserve(ctx, space.MiB, space.ClassNormal)) // no data chunk yet: one is made

	// … takes places out of it, and gives back what it did not need.
	node, err := fs.Metadata().AllocExtent(ctx, space.ExtentRequest{Want: 16 * space.KiB})
	must(err)
	file, err := fs.Data().AllocExtent(ctx, space.ExtentRequest{Want: space.MiB, Min: 4 * space.KiB})
	must(err)
	fs.Metadata().Release(2*units.Insert() - node.Length)

	// Delayed refs record the extents.
	must(fs.MarkUsed(node))
	must(fs.MarkUsed(file))

	// Commit: phase 2 of the new group, superblock on disk, then CommitDone.
	for _, g := range fs.NewGroups() {
		fmt.Printf("block group item: %v\n", g.Chunk().Range())
		fs.Written(g)
	}
	fs.CommitDone(t.running)
	t.running++

	// What is freed comes back only when the transaction that freed it is
	// durable.
	must(fs.FreeExtent(ctx, file, t.running))
	fmt.Println("pinned:", fs.Data().Usage().Pinned)
	fs.CommitDone(t.running)
	fmt.Println("pinned:", fs.Data().Usage().Pinned)

	// Empty groups go, but one stays.
	for _, g := range fs.Unused() {
		must(g.Remove(t.running))
	}
	fmt.Println("data groups:", fs.Data().Usage().Groups)

	// Output:
	// chunk item: DATA at 277872640, 1 GiB
	// block group item: {277872640 1 GiB}
	// pinned: 1 MiB
	// pinned: 0 B
	// data groups: 1
}
