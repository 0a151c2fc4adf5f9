package btrfs_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gobtrfs/internal/oracle"
)

// TestConvertedFromExt4: btrfs-convert leaves the data where ext4 had it, in
// block groups like no others, stores links with a NUL behind their targets, and
// makes its data relocation tree as a snapshot is made.
func TestConvertedFromExt4(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Mounting...)
	needConvert(t)
	ctx := context.Background()
	dir := filepath.Join(t.TempDir(), "files")
	must(t, os.MkdirAll(filepath.Join(dir, "d"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "d/data"), oracle.Noise(1, 3<<20), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "d/small"), []byte("small"), 0o600))
	must(t, os.Link(filepath.Join(dir, "d/data"), filepath.Join(dir, "hard")))
	must(t, os.Symlink("d", filepath.Join(dir, "short")))
	must(t, os.Symlink(strings.Repeat("long/", 60), filepath.Join(dir, "long")))
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	_, err = f.WriteAt(oracle.Noise(2, 5000), 10<<20)
	must(t, err)
	must(t, f.Close())
	image := filepath.Join(oracle.Dir(t), "image")
	oracle.Run(t, "mkfs.ext4", "-q", "-F", "-b", "4096", "-d", dir, image, "300M")
	oracle.Run(t, "btrfs-convert", image)
	checkOurselves(t, image)
	judge(t, image)
	fs, e := openWritable(t, image)
	must(t, e.Remove(ctx, "/hard"))
	_, err = e.WriteAt(ctx, "/d/data", oracle.Noise(3, 100_000), 50_000)
	must(t, err)
	must(t, e.Rename(ctx, "/long", "/d/long", 0))
	must(t, e.DeleteSubvolume(ctx, "/ext2_saved"))
	must(t, fs.Sync(ctx))
	must(t, fs.Verify())
	must(t, fs.Close())
	checkOurselves(t, image)
	judge(t, image)
}
