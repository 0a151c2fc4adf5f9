package btrfs_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/internal/oracle"
)

// TestCrashWhileReplaying replays the log of a filesystem that Linux left
// unclean and cuts the power everywhere: whatever reached the device, what is
// seen is the same, from the log or from the trees.
func TestCrashWhileReplaying(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	t.Logf("-crash.seed=%d", *crashSeed)
	rnd := rand.New(rand.NewPCG(*crashSeed, 9))
	before := load(t, uncleanImage(t, rnd))
	want, err := listing(before)
	must(t, err)
	rec := &recorder{Device: before.Clone(), log: &eventLog{}}
	f, err := btrfs.OpenDevices(t.Context(), []blockdev.Device{rec}, btrfs.Options{Writable: true})
	must(t, err)
	must(t, f.Close())
	if got, err := listing(rec.Device); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("replayed: error %v, same: %v", err, bytes.Equal(got, want))
	}
	rec.log.commits = []committed{{0, want}}
	c := newCrash(t, &crashWorkload{variant: on(1)}, rnd, disks{before}, rec.log)
	c.writes = 1 // each is replayed once more, to the end
	c.run(max(10, *crashStates/3))
	t.Logf("%d events, %d states, %d exported", len(rec.log.events), c.states, c.exported)
}

// uncleanImage is a filesystem with a log of several files and directories.
func uncleanImage(t *testing.T, rnd *rand.Rand) string {
	t.Helper()
	img := oracle.Mkfs(t, 256<<20)
	m := mount(t, "noatime,commit=300", img)
	write := func(name string, n int) *os.File {
		f, err := os.Create(filepath.Join(m.Dir, name))
		must(t, err)
		_, err = f.Write(oracle.Noise(rnd.Uint64(), n))
		must(t, err)
		return f
	}
	must(t, os.Mkdir(filepath.Join(m.Dir, "dir"), 0o755))
	for i := range 20 {
		must(t, write(fmt.Sprint("old", i), rnd.IntN(50000)).Close())
	}
	m.Sync()
	must(t, os.Mkdir(filepath.Join(m.Dir, "dir", "new"), 0o755))
	for i := range 10 {
		f := write(fmt.Sprint("dir/new/file", i), rnd.IntN(100000))
		must(t, f.Sync())
		must(t, f.Close())
		must(t, os.Rename(filepath.Join(m.Dir, fmt.Sprint("old", i)), filepath.Join(m.Dir, fmt.Sprint("moved", i))))
		f = write(fmt.Sprint("old", 10+i), rnd.IntN(100000))
		must(t, f.Sync())
		must(t, f.Close())
	}
	top, err := os.Open(m.Dir)
	must(t, err)
	must(t, os.Remove(filepath.Join(m.Dir, "moved3")))
	must(t, top.Sync())
	must(t, top.Close())
	unclean := oracle.CopyUnclean(t, img)
	m.Unmount()
	return unclean
}
