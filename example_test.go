package btrfs_test

import (
	"context"
	"fmt"
	"io/fs"
	"log"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/internal/specimen"
)

// exampleDevice is a small filesystem in memory.
func exampleDevice() blockdev.Device {
	raw, err := specimen.Raw()
	if err != nil {
		log.Fatal(err)
	}
	mem := blockdev.NewMemory(int64(len(raw)))
	if _, err := mem.WriteAt(raw, 0); err != nil {
		log.Fatal(err)
	}
	return mem
}

// Open the filesystem on an image, find a file and read it.
func ExampleOpen() {
	ctx := context.Background()
	f, err := btrfs.Open(ctx, "/no/such/image", btrfs.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	// Output: btrfs: open /no/such/image: no such file or directory
}

func ExampleSubvolume_Open() {
	ctx := context.Background()
	f, err := btrfs.OpenDevices(ctx, []blockdev.Device{exampleDevice()}, btrfs.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	top, err := f.TopLevel(ctx)
	if err != nil {
		log.Fatal(err)
	}
	file, err := top.Open(ctx, "a/hello")
	if err != nil {
		log.Fatal(err)
	}
	data, err := file.ReadAll(ctx)
	fmt.Printf("%s %d bytes: %q %v\n", file.Mode(), file.Size(), data, err)
	xattrs, err := file.Xattrs(ctx)
	fmt.Printf("%s=%s %v\n", xattrs[0].Name, xattrs[0].Value, err)
	// Output:
	// -rw-r--r-- 6 bytes: "hello\n" <nil>
	// user.k=value <nil>
}

// Walk a subvolume with the standard library.
func ExampleSubvolume_IOFS() {
	ctx := context.Background()
	f, err := btrfs.OpenDevices(ctx, []blockdev.Device{exampleDevice()}, btrfs.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	top, err := f.TopLevel(ctx)
	if err != nil {
		log.Fatal(err)
	}
	err = fs.WalkDir(top.IOFS(ctx), "s", func(path string, d fs.DirEntry, err error) error {
		fmt.Println(path, err)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// s <nil>
	// s/in <nil>
}

func ExampleFS_Subvolumes() {
	ctx := context.Background()
	f, err := btrfs.OpenDevices(ctx, []blockdev.Device{exampleDevice()}, btrfs.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	subvols, err := f.Subvolumes(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range subvols {
		fmt.Printf("%d %q read-only=%v\n", uint64(s.ID), s.Path, s.ReadOnly())
	}
	// Output:
	// 5 "" read-only=false
	// 256 "s" read-only=false
	// 257 "snap" read-only=false
	// 258 "top-snap" read-only=true
}
