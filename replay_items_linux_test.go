package btrfs_test

import (
	"fmt"
	"testing"

	"gobtrfs"
)

// replayed makes changes that only a log holds, and opens what a crash leaves.
func replayed(t *testing.T, change func(e *btrfs.Editor)) *btrfs.Editor {
	t.Helper()
	m := inMemory(t, 256<<20)
	f, e := editDevice(t, m, btrfs.Options{})
	change(e)
	crashed := m.Clone()
	must(t, f.Close())
	f, e = editDevice(t, crashed, btrfs.Options{})
	t.Cleanup(func() { must(t, f.Close()) })
	wholeDevice(t, crashed)
	return e
}

// A symbolic link that comes from the log counts the bytes of its target.
func TestReplayedSymlink(t *testing.T) {
	e := replayed(t, func(e *btrfs.Editor) {
		must(t, e.Symlink(t.Context(), "target", "/link", 0, 0))
		must(t, e.Fsync(t.Context(), "/", false))
	})
	info, err := e.Stat(t.Context(), "/link")
	must(t, err)
	if info.Item.NBytes != 6 {
		t.Errorf("%d bytes, want 6", info.Item.NBytes)
	}
}

// Names that do not fit the item of back references are each in one item after
// a replay, as in the log.
func TestReplayedLinks(t *testing.T) {
	const links = 120 // of 200 bytes; 70 fit
	e := replayed(t, func(e *btrfs.Editor) {
		must(t, e.Create(t.Context(), "/f", btrfs.Attr{Perm: 0o600}))
		for i := range links {
			must(t, e.Link(t.Context(), "/f", fmt.Sprintf("/%0200d", i)))
		}
		must(t, e.Fsync(t.Context(), "/f", false))
	})
	info, err := e.Stat(t.Context(), "/f")
	must(t, err)
	if info.Item.Nlink != links+1 {
		t.Errorf("%d links, want %d", info.Item.Nlink, links+1)
	}
}
