package btrfs_test

import (
	"context"
	"fmt"
	"testing"

	"gobtrfs"
	"gobtrfs/internal/oracle"
)

// TestWriteManyDevices grows, changes and empties filesystems on several
// devices in profiles of every kind.
func TestWriteManyDevices(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	for _, c := range []struct{ data, metadata string }{
		{"raid0", "raid1c3"}, {"raid10", "raid1"}, {"raid5", "raid6"},
	} {
		t.Run(c.data, func(t *testing.T) {
			ctx := context.Background()
			images := oracle.MkfsN(t, 4, 512<<20, "-d", c.data, "-m", c.metadata)
			f, err := btrfs.Open(ctx, images[0], btrfs.Options{Writable: true, Devices: images[1:]})
			must(t, err)
			top, err := f.TopLevel(ctx)
			must(t, err)
			e, err := top.Edit()
			must(t, err)
			for i := range 24 {
				name := fmt.Sprint("/f", i)
				must(t, e.Create(ctx, name, btrfs.Attr{Perm: 0o600}))
				_, err := e.WriteAt(ctx, name, oracle.Noise(uint64(i), 6<<20), 0)
				must(t, err)
				if i%8 == 7 {
					must(t, f.Sync(ctx))
				}
			}
			for i := range 18 {
				must(t, e.Remove(ctx, fmt.Sprint("/f", i)))
			}
			must(t, f.Sync(ctx))
			must(t, f.Verify())
			must(t, f.Close())
			oracle.CheckWith(t, oracle.CheckOptions{Data: true}, images...)
			m := oracle.Mount(t, "", images...)
			oracle.Scrub(t, m.Dir)
			m.Unmount()
		})
	}
}
