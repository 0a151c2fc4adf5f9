package btrfs_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/internal/invariants"
	"gobtrfs/internal/oracle"
)

var (
	contentsSeed   = flag.Uint64("contents.seed", 1, "seed of the files that are compared with arrays of bytes")
	contentsRounds = flag.Int("contents.rounds", 4, "filesystems whose files are compared with arrays of bytes")
)

// contents are files of a filesystem, and what they must hold.
type contents struct {
	t    *testing.T
	dev  blockdev.Device
	o    btrfs.Options
	rnd  *rand.Rand
	f    *btrfs.FS
	e    *btrfs.Editor
	want map[string][]byte
}

func (c *contents) open() {
	c.t.Helper()
	f, err := btrfs.OpenDevices(context.Background(), []blockdev.Device{c.dev}, c.o)
	must(c.t, err)
	top, err := f.TopLevel(context.Background())
	must(c.t, err)
	c.f = f
	c.e, err = top.Edit()
	must(c.t, err)
}

func (c *contents) name() string { return fmt.Sprintf("/f%d", c.rnd.IntN(4)) }

// offset and length are often whole sectors, and near the start.
func (c *contents) length() int {
	switch c.rnd.IntN(8) {
	case 0:
		return 1 + c.rnd.IntN(200)
	case 1, 2:
		return 4096 * (1 + c.rnd.IntN(4))
	case 3:
		return 1 + c.rnd.IntN(4096)
	case 4:
		return 128<<10 + c.rnd.IntN(3)*4096
	case 5:
		return 1 + c.rnd.IntN(300<<10)
	case 6:
		return 1 + c.rnd.IntN(9000)
	}
	if c.rnd.IntN(8) == 0 { // one that goes to the device at once
		return 4<<20 + c.rnd.IntN(5)*1000
	}
	return 1 + c.rnd.IntN(2<<20)
}

func (c *contents) offset(size int) int64 {
	switch c.rnd.IntN(4) {
	case 0:
		return int64(size)
	case 1:
		return int64(c.rnd.IntN(size+1) &^ 4095)
	case 2:
		return int64(c.rnd.IntN(min(size, 20000) + 1))
	}
	return int64(c.rnd.IntN(size + 10000))
}

// fill makes contents that compress, or do not, or are zeros.
func (c *contents) fill(n int) []byte {
	b := make([]byte, n)
	switch c.rnd.IntN(4) {
	case 0:
		for i := range b {
			b[i] = byte(c.rnd.Uint32())
		}
	case 1:
		for i := range b {
			b[i] = byte('a' + c.rnd.IntN(4))
		}
	case 2:
		for i := range b {
			b[i] = byte(i / 300)
		}
	}
	return b
}

func grown(b []byte, size int) []byte {
	if size <= len(b) {
		return b
	}
	return append(b, make([]byte, size-len(b))...)
}

func (c *contents) step() string {
	ctx, name := context.Background(), c.name()
	old, ok := c.want[name]
	if !ok {
		must(c.t, c.e.Create(ctx, name, btrfs.Attr{Perm: 0o644}))
		c.want[name] = nil
		return "create " + name
	}
	off, n := c.offset(len(old)), c.length()
	what := func(op string) string { return fmt.Sprintf("%s %s %d %d", op, name, off, n) }
	switch c.rnd.IntN(16) {
	default:
		p := c.fill(n)
		k, err := c.e.WriteAt(ctx, name, p, off)
		if must(c.t, err); k != n {
			c.t.Fatalf("wrote %d of %d bytes", k, n)
		}
		c.want[name] = grown(old, int(off)+n)
		copy(c.want[name][off:], p)
		return what("write")
	case 7:
		must(c.t, c.e.Truncate(ctx, name, off))
		c.want[name] = grown(old, int(off))[:off]
		return what("truncate")
	case 8:
		must(c.t, c.e.PunchHole(ctx, name, off, int64(n)))
		if int(off) < len(old) {
			clear(old[off:min(len(old), int(off)+n)])
		}
		return what("punch")
	case 9:
		keep := c.rnd.IntN(2) == 0
		if c.rnd.IntN(2) == 0 {
			must(c.t, c.e.ZeroRange(ctx, name, off, int64(n), keep))
			if !keep {
				c.want[name] = grown(old, int(off)+n)
			}
			if b := c.want[name]; int(off) < len(b) {
				clear(b[off:min(len(b), int(off)+n)])
			}
			return what("zero")
		}
		must(c.t, c.e.Allocate(ctx, name, off, int64(n), keep))
		if !keep {
			c.want[name] = grown(old, int(off)+n)
		}
		return what("allocate")
	case 10:
		to := name + "clone"
		if _, ok := c.want[to]; ok {
			must(c.t, c.e.Remove(ctx, to))
		}
		must(c.t, c.e.Clone(ctx, name, to, btrfs.Attr{Perm: 0o600}))
		c.want[to] = bytes.Clone(old)
		return what("clone")
	case 11:
		must(c.t, c.e.Remove(ctx, name))
		delete(c.want, name)
		return what("remove")
	case 12:
		must(c.t, c.f.Sync(ctx))
		return "sync"
	case 13:
		if c.rnd.IntN(3) > 0 {
			return "nothing"
		}
		must(c.t, c.f.Sync(ctx))
		must(c.t, c.f.Close())
		c.open()
		return "reopen"
	case 14:
		snap := fmt.Sprintf("/snap%d", c.rnd.IntN(2))
		must(c.t, c.e.RemoveAll(ctx, snap))
		for path := range c.want {
			if len(path) > len(snap) && path[:len(snap)] == snap {
				delete(c.want, path)
			}
		}
		_, err := c.e.Snapshot(ctx, "/", snap, false)
		must(c.t, err)
		for path, b := range c.want {
			if path[:2] == "/f" {
				c.want[snap+path] = bytes.Clone(b)
			}
		}
		return "snapshot"
	}
}

func (c *contents) compare(after string) {
	c.t.Helper()
	ctx := context.Background()
	for name, want := range c.want {
		got := make([]byte, len(want)+1)
		n, err := c.e.ReadAt(ctx, name, got, 0)
		if !errors.Is(err, io.EOF) || n != len(want) || !bytes.Equal(got[:n], want) {
			at := 0
			for at < min(n, len(want)) && got[at] == want[at] {
				at++
			}
			c.t.Fatalf("after %s: %s has %d bytes, want %d, %v; they differ at %d", after, name, n, len(want), err, at)
		}
		if len(want) == 0 {
			continue
		}
		at := c.rnd.IntN(len(want))
		part := got[:min(len(want)-at, 10000)]
		if _, err := c.e.ReadAt(ctx, name, part, int64(at)); err != nil || !bytes.Equal(part, want[at:at+len(part)]) {
			c.t.Fatalf("after %s: %s is wrong from %d on: %v", after, name, at, err)
		}
	}
}

// TestContentsAgainstBytes writes, cuts, punches, preallocates, clones and
// snapshots files, with and without compression and copy on write, and
// compares what they hold with arrays of bytes: at once, after commits, and
// after opening again.
func TestContentsAgainstBytes(t *testing.T) {
	oracle.Need(t, oracle.Progs)
	base := load(t, oracle.Mkfs(t, 512<<20))
	options := []btrfs.Options{
		{}, {Compress: "zstd:1"}, {NoDataCow: true}, {Compress: "lzo", CompressForce: true}, {NoDataSum: true},
		{Compress: "zlib", DirtyBytes: 1}, {DirtyBytes: 1 << 20, Compress: "zstd", CompressForce: true}, {NoDataCow: true, DirtyBytes: 300 << 10},
	}
	for i := range *contentsRounds {
		seed := *contentsSeed + uint64(i)
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			dev := base.Clone()
			c := contents{t: t, dev: dev, o: options[i%len(options)], rnd: rand.New(rand.NewPCG(seed, 9)), want: map[string][]byte{}}
			c.o.Writable = true
			c.open()
			steps := 150
			if invariants.Enabled { // ten times as slow
				steps = 25
			}
			for range steps {
				did := c.step()
				c.compare(did)
				must(t, c.f.Verify())
			}
			must(t, c.f.Sync(context.Background()))
			c.compare("the last sync")
			must(t, c.f.Close())
			r, err := check.Run(context.Background(), []blockdev.Device{dev}, check.Options{VerifyData: true, NoPaths: true})
			must(t, err)
			if r.Errors > 0 {
				t.Fatal(r.Findings)
			}
			if i < 3 {
				judge(t, save(t, newLayer(dev)))
			}
		})
	}
}
