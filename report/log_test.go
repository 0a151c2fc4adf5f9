//go:build linux

package report_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
)

// An unclean filesystem shows what the kernel shows after it has replayed the
// log; without the log, what the kernel shows when it is told to leave it.
func TestUncleanLog(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	seeds := uint64(logSeeds)
	if testing.Short() {
		seeds = 1
	}
	for seed := range seeds {
		for _, feature := range []string{"no-holes", "^no-holes"} {
			t.Run(fmt.Sprintf("seed %d %s", seed, feature), func(t *testing.T) {
				t.Parallel()
				img := oracle.Mkfs(t, 256*mib, "-O", feature)
				m := oracle.Mount(t, "noatime,commit=300", img)
				w := &logWriter{t: t, dir: m.Dir, r: rand.New(rand.NewPCG(seed, 7))}
				for range 60 {
					w.step()
				}
				m.Sync()
				var unclean []string
				for range 4 { // the log grows from fsync to fsync
					for range 15 {
						w.step()
					}
					if w.fsync() {
						unclean = append(unclean, oracle.CopyUnclean(t, img))
					}
				}
				m.Unmount()
				if len(unclean) == 0 {
					t.Fatal("no fsync made a log")
				}
				for _, u := range unclean {
					logged, plain := ours(t, btrfs.Options{}, u), ours(t, btrfs.Options{NoLog: true}, u)
					oracle.RequireSame(t, kernels(t, "ro,rescue=nologreplay", u), plain, manifest.All)
					replayedByUs := replayed(t, u)
					before, untouched := time.Now(), slices.Clone(logged)
					byKernel := kernels(t, "", u) // u changes
					forgetReplayTimes(byKernel, logged, before)
					oracle.RequireSame(t, byKernel, logged, manifest.All)
					// Linux puts preallocation behind inline extents, which
					// the low-memory mode calls a gap where holes are items.
					o := oracle.CheckOptions{Data: true, NoLowmem: feature == "^no-holes"}
					oracle.CheckWith(t, o, replayedByUs)
					byUs := kernels(t, "", replayedByUs)
					oracle.RequireSame(t, byUs, untouched, manifest.All)
				}
			})
		}
	}
}

// replayed is a copy of an unclean image that was opened for writing once.
func replayed(t *testing.T, image string) string {
	t.Helper()
	image = oracle.Copy(t, image)
	f, err := btrfs.Open(t.Context(), image, btrfs.Options{Writable: true})
	if err == nil {
		err = f.Verify()
	}
	if err != nil {
		t.Fatal(err)
	}
	if f.Super().LogRoot != 0 {
		t.Error("the log is still there")
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return image
}

// forgetReplayTimes makes times equal that replaying set to the moment of
// replaying, as it does for files that it takes a name away from: they are in
// no log.
func forgetReplayTimes(replayed, logged []manifest.Entry, before time.Time) {
	byPath := map[string]*manifest.Entry{}
	for i := range logged {
		byPath[logged[i].Path] = &logged[i]
	}
	const tick = 20 * time.Millisecond // file times come from a coarse clock
	late := func(t disk.Time) bool { return time.Unix(t.Sec, int64(t.Nsec)).After(before.Add(-tick)) }
	for i := range replayed {
		if e := byPath[replayed[i].Path]; e != nil {
			if late(replayed[i].Ctime) {
				e.Ctime = replayed[i].Ctime
			}
			if late(replayed[i].Mtime) {
				e.Mtime = replayed[i].Mtime
			}
		}
	}
}

// logWriter does random things in one directory tree, and fsyncs.
type logWriter struct {
	t     *testing.T
	dir   string
	r     *rand.Rand
	made  int
	files []string
	dirs  []string
}

func (w *logWriter) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *logWriter) newName() string {
	w.made++
	dir := w.dir
	if len(w.dirs) > 0 && w.r.IntN(3) > 0 {
		dir = w.dirs[w.r.IntN(len(w.dirs))]
	}
	return filepath.Join(dir, fmt.Sprintf("n%d", w.made))
}

func (w *logWriter) step() {
	w.t.Helper()
	if len(w.files) < 3 {
		w.create()
		return
	}
	i := w.r.IntN(len(w.files))
	file := w.files[i]
	switch w.r.IntN(14) {
	case 0, 1:
		w.create()
	case 2:
		name := w.newName()
		w.check(os.Mkdir(name, 0o755))
		w.dirs = append(w.dirs, name)
	case 3:
		w.check(os.Remove(file))
		w.files = slices.Delete(w.files, i, i+1)
	case 4:
		name := w.newName()
		w.check(os.Rename(file, name))
		w.files[i] = name
	case 5:
		j := w.r.IntN(len(w.files)) // over another one, or onto itself
		w.check(os.Rename(file, w.files[j]))
		if i != j {
			w.files = slices.Delete(w.files, i, i+1)
		}
	case 6:
		name := w.newName()
		w.check(os.Link(file, name))
		w.files = append(w.files, name)
	case 7:
		w.check(os.Truncate(file, int64(w.r.IntN(200_000))))
	case 8, 9:
		w.write(file, int64(w.r.IntN(150_000)), 1+w.r.IntN(70_000))
	case 10:
		w.check(unix.Setxattr(file, fmt.Sprintf("user.x%d", w.r.IntN(4)), oracle.Noise(w.r.Uint64(), w.r.IntN(300)), 0))
	case 11:
		if err := unix.Removexattr(file, fmt.Sprintf("user.x%d", w.r.IntN(4))); err != nil && err != unix.ENODATA {
			w.t.Fatal(err)
		}
	case 12:
		w.fallocate(file)
	case 13:
		w.check(os.Chmod(file, os.FileMode(w.r.IntN(0o1000))))
	}
}

func (w *logWriter) create() {
	w.t.Helper()
	name := w.newName()
	size := []int{0, 10, 1500, 4096, 30_000, 200_000}[w.r.IntN(6)]
	w.check(os.WriteFile(name, oracle.Text(w.r.Uint64(), size), 0o644))
	w.files = append(w.files, name)
}

func (w *logWriter) write(file string, off int64, n int) {
	w.t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	w.check(err)
	_, err = f.WriteAt(oracle.Noise(w.r.Uint64(), n), off)
	w.check(err)
	w.check(f.Close())
}

func (w *logWriter) fallocate(file string) {
	w.t.Helper()
	mode := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE}[w.r.IntN(4)]
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	w.check(err)
	w.check(unix.Fallocate(int(f.Fd()), mode, int64(w.r.IntN(100_000)), int64(1+w.r.IntN(100_000))))
	w.check(f.Close())
}

// fsync syncs a few files and directories and says whether it did any.
func (w *logWriter) fsync() bool {
	w.t.Helper()
	names := slices.Concat(w.files, w.dirs)
	for range min(3, len(names)) {
		f, err := os.Open(names[w.r.IntN(len(names))])
		w.check(err)
		w.check(f.Sync())
		w.check(f.Close())
	}
	return len(names) > 0
}
