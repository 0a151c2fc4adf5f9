package btrfs_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
	"gobtrfs/report"
)

var (
	fsyncSeed   = flag.Uint64("fsync.seed", 1, "first seed of the logs that Linux replays")
	fsyncSeeds  = flag.Int("fsync.seeds", 2, "seeds of the logs that Linux replays")
	fsyncRounds = flag.Int("fsync.rounds", 6, "logs a seed")
)

// TestLinuxReplaysOurLogs does random operations through an Editor, with an
// fsync now and then, and takes the image as it is after one: what a power cut
// would leave. Linux replays the log, and must then show every file that was
// synced, under each of its names; what we show of the image is the same.
func TestLinuxReplaysOurLogs(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	for seed := *fsyncSeed; seed < *fsyncSeed+uint64(*fsyncSeeds); seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			args := [][]string{{}, {"-n", "4096"}, {"-m", "single"}, {"-O", "^no-holes"}, {"-M"}}[seed%5]
			rnd := rand.New(rand.NewPCG(seed, 17))
			w := fsyncWorld{t: t, rnd: rnd, image: oracle.Mkfs(t, 256<<20, args...)}
			w.gen = &opMaker{rnd: rnd, holes: seed%5 == 3}
			w.f, w.e = openWith(t, w.image, btrfs.Options{CommitInterval: -1})
			w.side = &ourSide{Editor: w.e, w: w.f.Writer()}
			for range 80 {
				w.step()
			}
			must(t, w.f.Sync(t.Context()))
			logs := 0
			for round := range *fsyncRounds {
				for range 1 + rnd.IntN(25) {
					w.step()
				}
				if w.round(round) {
					logs++
				}
				if rnd.IntN(4) == 0 {
					must(t, w.f.Sync(t.Context()))
				}
			}
			must(t, w.side.release(t.Context()))
			must(t, w.f.Sync(t.Context()))
			must(t, w.f.Verify())
			must(t, w.f.Close())
			(&variant{holes: w.gen.holes}).check(t, []string{w.image})
			t.Logf("%v: %d of %d images had a log", args, logs, *fsyncRounds)
		})
	}
}

// fsyncWorld is a filesystem of ours that is open for writing.
type fsyncWorld struct {
	t     *testing.T
	rnd   *rand.Rand
	gen   *opMaker
	image string
	f     *btrfs.FS
	e     *btrfs.Editor
	side  *ourSide
	ops   []string
}

func (w *fsyncWorld) step() {
	o := w.gen.next()
	if strings.HasPrefix(o.kind.name, "snap") && w.rnd.IntN(5) > 0 {
		return // they commit
	}
	err := o.onOurs(context.Background(), w.side)
	w.gen.learn(o, err)
	w.ops = append(w.ops, fmt.Sprintf("%v: %v", o, err))
	if err != nil && w.f.Failed() != nil {
		w.t.Fatal(err)
	}
}

// running is the manifest of the running transaction.
func (w *fsyncWorld) running() map[string]manifest.Entry {
	out := make(map[string]manifest.Entry)
	must(w.t, w.f.View(w.t.Context(), disk.TreeFS, func(ctx context.Context, s *btrfs.Subvolume) error {
		root, err := s.Root(ctx)
		if err != nil {
			return err
		}
		for e, err := range report.Manifest(ctx, root, manifest.All) {
			if err != nil {
				return err
			}
			out[e.Path] = e
		}
		return nil
	}))
	return out
}

// round syncs some files and lets Linux look at the image; logged says that it
// had a log.
func (w *fsyncWorld) round(n int) (logged bool) {
	t := w.t
	all := w.running()
	var paths []string
	for e := range all {
		paths = append(paths, e)
	}
	slices.Sort(paths)
	synced := map[string]bool{}
	for range 1 + w.rnd.IntN(3) {
		p := paths[w.rnd.IntN(len(paths))]
		if all[p].Type != 'f' && all[p].Type != 'd' {
			continue
		}
		err := w.e.Fsync(t.Context(), "/"+p, w.rnd.IntN(4) == 0)
		w.ops = append(w.ops, fmt.Sprintf("fsync %s: %v", p, err))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		synced[p] = err == nil
	}
	all = w.running() // a commit may have changed times of files without names
	state := oracle.CopyUnclean(t, w.image)
	defer os.Remove(state)
	shown := imageManifest(t, state, btrfs.Options{})
	f, err := btrfs.Open(t.Context(), state, btrfs.Options{})
	must(t, err)
	logged = f.Super().LogRoot != 0
	must(t, f.Close())
	m := mount(t, "subvolid=5", state)
	kernel := oracle.HostManifest(t, m.Dir, oracle.HostOptions{})
	m.Unmount()
	(&variant{holes: w.gen.holes}).check(t, []string{state})
	const fields = manifest.All &^ (manifest.Mtime | manifest.Ctime) // replay sets those of what loses names
	oracle.RequireSame(t, kernel, shown, fields)
	w.requireSynced(synced, all, kernel)
	if t.Failed() {
		name := filepath.Join(t.ArtifactDir(), fmt.Sprint("operations-", n))
		must(t, os.WriteFile(name, []byte(strings.Join(w.ops, "\n")), 0o666))
		t.Fatalf("round %d: %v, operations in %s", n, synced, name)
	}
	return logged
}

// requireSynced compares what was synced: each file under all of its names, and
// the names of each directory.
func (w *fsyncWorld) requireSynced(synced map[string]bool, all map[string]manifest.Entry, kernel []manifest.Entry) {
	replayed := make(map[string]manifest.Entry)
	for _, e := range kernel {
		replayed[e.Path] = e
	}
	for p, ok := range synced {
		if !ok {
			continue
		}
		want := all[p]
		volume := func(path string) string { // of which subvolume a path is
			for ; path != ""; path = strings.TrimSuffix(filepath.Dir(path), ".") {
				if all[path].Subvol != 0 {
					break
				}
			}
			return path
		}
		for path, e := range all {
			if e.Ino != want.Ino || e.Type != want.Type || volume(path) != volume(p) {
				continue
			}
			got, ok := replayed[path]
			if !ok {
				w.t.Errorf("%s was synced as %s, and is gone", path, p)
				continue
			}
			got.Has &^= manifest.Path
			if d := oracle.Differences(w.t, []manifest.Entry{e}, []manifest.Entry{got}, manifest.All&^manifest.Path); len(d) > 0 {
				w.t.Errorf("%s was synced as %s: %v", path, p, d)
			}
		}
		if want.Type == 'd' {
			a, b := childrenOf(p, all), childrenOf(p, replayed)
			if a != b {
				w.t.Errorf("directory %s has %s, want %s", p, b, a)
			}
		}
	}
}

func childrenOf(dir string, all map[string]manifest.Entry) string {
	var names []string
	for p := range all {
		if p != "" && strings.TrimSuffix(filepath.Dir(p), ".") == dir {
			names = append(names, filepath.Base(p))
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
