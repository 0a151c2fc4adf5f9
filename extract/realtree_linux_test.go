package extract_test

import (
	"path/filepath"
	"runtime"
	"testing"

	"gobtrfs/extract"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
)

// A tree that people have, through every compression: what is extracted is what
// cp -a copies from the mount, in all metadata and contents.
func TestRealTree(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	options := []string{"compress=no", "compress-force=zlib", "compress-force=lzo", "compress-force=zstd"}
	if testing.Short() { // under the race detector
		options = options[3:]
	}
	for _, option := range options {
		t.Run(option, func(t *testing.T) {
			image := oracle.Mkfs(t, 4<<30)
			m := oracle.Mount(t, "noatime,"+option, image)
			oracle.Run(t, "cp", append(append([]string{"-a"}, realTrees()...), m.Dir)...)
			m.Sync()
			work := oracle.Dir(t)
			oracle.Run(t, "cp", "-a", m.Dir, filepath.Join(work, "cp"))
			m.Unmount()
			r, err := extract.ToDir(t.Context(), open(t, image), "", filepath.Join(work, "ours"), extract.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if r.DamagedCount+r.UnkeptCount != 0 {
				t.Errorf("damaged %v, not kept %v", r.Damaged, r.Unkept)
			}
			want := comparable(oracle.HostManifest(t, filepath.Join(work, "cp"), oracle.HostOptions{}))
			if len(want) < leastFiles {
				t.Errorf("a tree of %d files, want %d", len(want), leastFiles)
			}
			oracle.RequireSame(t, want, comparable(oracle.HostManifest(t, filepath.Join(work, "ours"), oracle.HostOptions{})), manifest.All)
			t.Logf("%d files", len(want))
		})
	}
}

func goroot(elem ...string) string {
	//lint:ignore SA1019 the tests run where they were built
	return filepath.Join(append([]string{runtime.GOROOT()}, elem...)...)
}
