package report_test

import (
	"os"
	"path/filepath"
	"testing"

	"gobtrfs"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
	"gobtrfs/mkfs"
)

// btrfs-progs 6.2 cannot make a block-group-tree; the kernel can use it.
func TestBlockGroupTree(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Mounting...)
	images := oracle.Sparse(t, 1, 512*mib)
	if _, err := mkfs.MakeFiles(t.Context(), images, 512*mib, mkfs.Options{Features: []string{"block-group-tree"}, Force: true}); err != nil {
		t.Fatal(err)
	}
	m := oracle.Mount(t, "noatime,compress-force=zstd", images...)
	oracle.Populate(t, m.Dir, 16384)
	m.Unmount()
	oracle.RequireSame(t, kernels(t, "ro", images...), ours(t, btrfs.Options{}, images...), manifest.All)
}

// A sprout shows what its seed holds and what came after; the seed alone what it
// held.
func TestSeedAndSprout(t *testing.T) {
	t.Parallel()
	oracle.Need(t, oracle.Mounting...)
	seed := oracle.Mkfs(t, 512*mib)
	m := oracle.Mount(t, "noatime", seed)
	oracle.Populate(t, m.Dir, 16384)
	m.Unmount()
	oracle.Run(t, "btrfstune", "-f", "-S", "1", seed)
	before := kernels(t, "ro", seed)
	oracle.RequireSame(t, before, ours(t, btrfs.Options{}, seed), manifest.All)

	sprout := oracle.Sparse(t, 1, 512*mib)[0]
	m = oracle.Mount(t, "ro,noatime", seed)
	oracle.Attached(t, []string{sprout}, func(loops []string) {
		oracle.Run(t, "btrfs", "device", "add", "-f", loops[0], m.Dir)
		oracle.Run(t, "mount", "-o", "remount,rw", m.Dir)
		if err := os.WriteFile(filepath.Join(m.Dir, "contents/text-5000"), oracle.Text(99, 70_000), 0o600); err != nil {
			t.Fatal(err)
		}
		m.Unmount()
	})
	want := kernels(t, "ro", sprout, seed)
	if len(want) != len(before) {
		t.Errorf("%d entries on the sprout, %d on the seed", len(want), len(before))
	}
	oracle.RequireSame(t, want, ours(t, btrfs.Options{}, sprout, seed), manifest.All)
	oracle.RequireSame(t, before, ours(t, btrfs.Options{}, seed), manifest.All)
	if len(oracle.Differences(t, before, want, manifest.All)) == 0 {
		t.Error("the sprout shows no change")
	}
}
