package btrfs_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gobtrfs"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
	"gobtrfs/report"
)

var (
	logSeed   = flag.Uint64("log.seed", uint64(time.Now().UnixNano()), "seed of the fsync rounds")
	logRounds = flag.Int("log.rounds", 6, "fsync rounds: unclean filesystems to compare with the kernel's replay")
)

// TestLogOverlay makes unclean filesystems with the kernel: random changes,
// random fsyncs, then the backing file copied while mounted. What we show of
// the copy must be what the kernel shows after it replayed the log.
func TestLogOverlay(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	pending := 0
	for round := range *logRounds {
		seed := *logSeed + uint64(round)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			args := []string{"-O", []string{"no-holes", "^no-holes"}[seed%2]}
			image := oracle.Mkfs(t, 256<<20, args...)
			opts := "commit=300"
			if seed%3 == 0 {
				opts += ",compress=zstd"
			}
			m := oracle.Mount(t, opts, image)
			c := changer{t: t, rnd: rand.New(rand.NewPCG(seed, 0)), top: m.Dir}
			c.change(200)
			unix.Sync()
			c.change(150)
			c.fsync(25)
			copied := oracle.CopyUnclean(t, image)
			m.Unmount()
			pending += compareReplay(t, copied)
		})
	}
	if pending == 0 && *logRounds > 3 {
		t.Errorf("no filesystem out of %d had a log that changes anything", *logRounds)
	}
	t.Logf("%d of %d logs change what a reader sees", pending, *logRounds)
}

// compareReplay compares our view of an unclean image with the kernel's after
// it replayed the log. Replay sets times of what it unlinks to the present,
// which a reader cannot know. The result is 1 if the log changes anything.
func compareReplay(t *testing.T, image string) int {
	t.Helper()
	before := time.Now()
	got := imageManifest(t, image, btrfs.Options{})
	committed := imageManifest(t, image, btrfs.Options{NoLog: true})
	changes := min(1, len(oracle.Differences(t, committed, got, manifest.All)))
	m := oracle.Mount(t, "", image)
	want := oracle.HostManifest(t, m.Dir, oracle.HostOptions{})
	m.Unmount()
	for i := range want {
		for j := range got {
			if got[j].Path != want[i].Path {
				continue
			}
			if want[i].Mtime.Sec >= before.Unix()-1 && want[i].Mtime.Sec >= got[j].Mtime.Sec {
				got[j].Mtime = want[i].Mtime
			}
			if want[i].Ctime.Sec >= before.Unix()-1 && want[i].Ctime.Sec >= got[j].Ctime.Sec {
				got[j].Ctime = want[i].Ctime
			}
		}
	}
	oracle.RequireSame(t, want, got, manifest.All)
	return changes
}

// imageManifest lists the top level of the filesystem on an image.
func imageManifest(t *testing.T, image string, o btrfs.Options) []manifest.Entry {
	t.Helper()
	ctx := context.Background()
	f, err := btrfs.Open(ctx, image, o)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	top, err := f.TopLevel(ctx)
	if err != nil {
		t.Fatal(err)
	}
	root, err := top.Root(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var out []manifest.Entry
	for e, err := range report.Manifest(ctx, root, manifest.All) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// changer makes random changes below a directory of a mounted filesystem.
// Operations that the kernel refuses (a name that is there, a directory that
// is not empty) are part of the game.
type changer struct {
	t   *testing.T
	rnd *rand.Rand
	top string
}

// name is a path among few, so that operations meet.
func (c *changer) name() string {
	p := c.top
	for range c.rnd.IntN(3) {
		p = filepath.Join(p, fmt.Sprintf("d%d", c.rnd.IntN(4)))
	}
	return filepath.Join(p, fmt.Sprintf("%c%d", "fd"[c.rnd.IntN(2)], c.rnd.IntN(5)))
}

func (c *changer) change(n int) {
	for range n {
		p, q := c.name(), c.name()
		switch c.rnd.IntN(13) {
		case 0, 1:
			os.MkdirAll(p, 0o755)
		case 2, 3, 4:
			c.write(p)
		case 5:
			os.Truncate(p, int64(c.rnd.IntN(200000)))
		case 6:
			os.Link(p, q)
		case 7, 8:
			os.Rename(p, q)
		case 9:
			os.Remove(p)
		case 10:
			os.Symlink(fmt.Sprint("target", c.rnd.IntN(100)), p)
		case 11:
			attr := fmt.Sprint("user.a", c.rnd.IntN(4))
			if c.rnd.IntN(3) == 0 {
				unix.Lremovexattr(p, attr)
			} else {
				unix.Lsetxattr(p, attr, make([]byte, c.rnd.IntN(200)), 0)
			}
		case 12:
			c.fsync(1)
		}
	}
}

func (c *changer) write(p string) {
	f, err := os.OpenFile(p, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	off := int64(c.rnd.IntN(300000))
	switch c.rnd.IntN(6) {
	case 0:
		unix.Fallocate(int(f.Fd()), uint32(c.rnd.IntN(2)), off, int64(c.rnd.IntN(100000)+1))
	case 1:
		unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, int64(c.rnd.IntN(100000)+1))
	case 2:
		f.WriteAt([]byte("small"), 0)
	default:
		buf := make([]byte, c.rnd.IntN(150000))
		for i := range buf {
			buf[i] = byte(c.rnd.IntN(40))
		}
		f.WriteAt(buf, off)
	}
	if c.rnd.IntN(4) == 0 {
		f.Sync()
	}
}

func (c *changer) fsync(n int) {
	for range n {
		f, err := os.Open(c.name())
		if err != nil {
			continue
		}
		if err := f.Sync(); err != nil {
			c.t.Errorf("fsync: %v", err)
		}
		f.Close()
	}
}
