package mkfs_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"testing/fstest"
	"time"

	"gobtrfs/mkfs"
)

// A small image of files that a program makes up. With a time given, the same files
// give the same bytes.
func ExampleMakeFiles() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // only temporary files

	files := fstest.MapFS{
		"etc/motd": {Data: []byte("hello\n"), Mode: 0o644},
		"bin/tool": {Data: make([]byte, 10_000), Mode: 0o755},
	}
	r, err := mkfs.MakeFiles(context.Background(), []string{filepath.Join(dir, "image")}, 0, mkfs.Options{
		Source: mkfs.FS(files), Shrink: true, Free: 1 << 20, Time: time.Unix(0, 0), Compress: "zstd",
		Subvolumes: []mkfs.Subvolume{{Path: "etc", ReadOnly: true}},
		Map:        mkfs.Mapping{Umask: 0o022},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(r.Files, "inodes,", r.Contents, "bytes of contents")
	// Output: 5 inodes, 10006 bytes of contents
}
