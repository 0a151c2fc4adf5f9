package btrfs_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"testing"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
)

// crashWorkload is something to cut the power in.
type crashWorkload struct {
	name string
	*variant
	size  int64 // of a device, in bytes; 0: 256 MiB
	bulky bool  // files are large and preallocated: Linux is not asked for their contents
	// before is done before it starts; nil: nothing.
	before func(c *crashRun) error
	away   bool // one of the devices is away when it starts
	run    func(c *crashRun) error
}

// prepare makes the filesystem that a workload finds.
func (w *crashWorkload) prepare(t *testing.T, rnd *rand.Rand) disks {
	t.Helper()
	var d disks
	for _, image := range w.make(t, cmp.Or(w.size, 256<<20)) {
		d = append(d, load(t, image))
		must(t, os.Remove(image))
	}
	if w.before != nil {
		c := w.start(t, d.devices(), false, rnd)
		must(t, w.before(c))
		must(t, c.w.release(c.ctx))
		must(t, c.f.Sync(c.ctx))
		must(t, c.f.Close())
	}
	if w.away && spareDevices(t, d) > 0 {
		d[rnd.IntN(len(d))] = nil
	}
	return d
}

// crashRun is a workload under way.
type crashRun struct {
	ctx context.Context
	f   *btrfs.FS
	e   *btrfs.Editor
	w   *ourSide
	rnd *rand.Rand
	log *eventLog // nil: nobody asks what the devices show
	// part: only one of as many parts of a workload is done.
	part int
	// acked is called when something is durable; nil: nobody asks.
	acked func()
}

// sync makes everything durable: the devices then show what the filesystem shows.
func (c *crashRun) sync() error {
	if err := c.f.Sync(c.ctx); err != nil {
		return err
	}
	if c.acked != nil {
		c.acked()
	}
	if c.log == nil {
		return nil
	}
	return c.f.View(c.ctx, disk.TreeFS, func(ctx context.Context, top *btrfs.Subvolume) error {
		now, err := listingOf(ctx, top)
		if err != nil {
			return err
		}
		if !bytes.Equal(now, c.log.last()) {
			return errors.New("after a sync the devices show something else")
		}
		return nil
	})
}

// fsync makes a file durable: the devices then show it as it is.
func (c *crashRun) fsync(path string) error {
	if err := c.e.Fsync(c.ctx, path, false); err != nil {
		if c.f.Failed() != nil || errors.Is(err, errFault) {
			return err
		}
		return nil // most likely it is gone
	}
	if c.acked != nil {
		c.acked()
	}
	if c.log == nil {
		return nil
	}
	info, err := c.e.Stat(c.ctx, path)
	if err != nil {
		return err
	}
	return c.f.View(c.ctx, info.Sub, func(ctx context.Context, s *btrfs.Subvolume) error {
		f, err := s.Inode(ctx, info.Ino)
		if err != nil {
			return err
		}
		now, err := entryOf(ctx, f, "")
		if err != nil {
			return err
		}
		return hasEntry(c.log.last(), now)
	})
}

// hasEntry wants a listing to have an entry under any path.
func hasEntry(files []byte, want manifest.Entry) error {
	text := manifest.Append(nil, &want, manifest.All)
	var others []byte
	for e, err := range manifest.Read(bytes.NewReader(files)) {
		if err != nil {
			return err
		}
		if e.Path = ""; bytes.Equal(manifest.Append(nil, &e, manifest.All), text) {
			return nil
		}
		if e.Ino == want.Ino && others == nil {
			others = manifest.Append(others, &e, manifest.All)
		}
	}
	return fmt.Errorf("after fsync the devices do not show %sbut %s", text, others)
}

// churn is rounds of random operations, some kinds only.
func (c *crashRun) churn(rounds, ops int, kinds []opKind) error {
	return c.churnAnd(rounds, ops, kinds, func(*opMaker) error { return nil })
}

// churnAnd is churn with something after each operation.
func (c *crashRun) churnAnd(rounds, ops int, kinds []opKind, after func(gen *opMaker) error) error {
	// Files without copy on write may be torn by a crash: that is what they are.
	kinds = slices.DeleteFunc(kinds, func(k opKind) bool { return k.name == "setflags" })
	gen := &opMaker{rnd: c.rnd, kinds: kinds}
	for _, k := range kinds {
		gen.total += k.weight
	}
	for range (rounds + c.part - 1) / c.part {
		for range c.rnd.IntN(ops) {
			o := gen.next()
			err := o.onOurs(c.ctx, c.w)
			gen.learn(o, err)
			if c.f.Failed() != nil || errors.Is(err, errFault) {
				return err
			}
			if err := after(gen); err != nil {
				return err
			}
		}
		if err := c.sync(); err != nil {
			return err
		}
	}
	return nil
}

// on is a filesystem of mkfs.btrfs on some devices.
func on(devices int, args ...string) *variant {
	v := mkfsVariant(append([]string{}, args...))
	v.devices = devices
	return v
}

func discarding(v *variant) *variant {
	v.open.Discard = true
	return v
}

var crashWorkloads = []crashWorkload{
	{name: "names", variant: on(1, "-n", "4096"), run: func(c *crashRun) error {
		return c.churn(8, 80, append(nameOps(), handleOps()...))
	}},
	{name: "overwrite", variant: on(1), run: func(c *crashRun) error {
		for i := range 4 {
			if err := c.e.Create(c.ctx, fmt.Sprint("/f", i), btrfs.Attr{Perm: 0o600}); err != nil {
				return err
			}
		}
		return c.churn(10, 25, append(contentOps(), attrOps()...))
	}},
	{name: "snapshots", variant: on(1, "-n", "4096", "-m", "single"), run: func(c *crashRun) error {
		return c.churn(6, 50, append(subvolOps(), nameOps()...))
	}},
	{name: "fsync", variant: on(1), run: fsyncWorkload},
	{name: "chunks", variant: on(1), size: 1 << 30, bulky: true, run: chunkWorkload},
	{name: "raid1", variant: on(2, "-d", "raid1", "-m", "raid1"), run: func(c *crashRun) error {
		return c.churn(5, 40, opKinds())
	}},
	{name: "dup", variant: on(1, "-d", "dup", "-m", "dup"), run: func(c *crashRun) error {
		return c.churn(5, 40, opKinds())
	}},
	{name: "discard", variant: discarding(on(1)), run: func(c *crashRun) error {
		return c.churnAnd(8, 40, append(contentOps(), nameOps()...), func(*opMaker) error {
			if c.rnd.IntN(60) > 0 {
				return nil
			}
			_, err := c.f.Trim(c.ctx, btrfs.TrimOptions{})
			return err
		})
	}},
	{name: "full", variant: on(1, "-m", "single"), size: 128 << 20, bulky: true, run: fullWorkload},
	{name: "big transaction", variant: on(1, "-n", "4096"), run: func(c *crashRun) error {
		for i := range 800 / c.part {
			name := fmt.Sprint("/", i)
			if err := c.e.Create(c.ctx, name, btrfs.Attr{Perm: 0o600}); err != nil {
				return err
			}
			if _, err := c.e.WriteAt(c.ctx, name, oracle.Text(uint64(i), i%3000), 0); err != nil {
				return err
			}
		}
		if err := c.sync(); err != nil {
			return err
		}
		for i := range 600 / c.part {
			if err := c.e.Remove(c.ctx, fmt.Sprint("/", i)); err != nil {
				return err
			}
		}
		return c.sync()
	}},
	{name: "tiny", variant: on(1, "-M", "-n", "4096"), size: 32 << 20, run: func(c *crashRun) error {
		return c.churn(8, 60, opKinds())
	}},
}

// fsyncWorkload has an fsync after some of the operations: what was logged must
// be found like what was committed.
func fsyncWorkload(c *crashRun) error {
	return c.churnAnd(12, 60, opKinds(), func(gen *opMaker) error {
		// btrfs check dislikes orphans with attributes.
		if err := c.w.release(c.ctx); err != nil || len(gen.live) == 0 || c.rnd.IntN(4) > 0 {
			return err
		}
		return c.fsync(gen.live[c.rnd.IntN(len(gen.live))])
	})
}

// chunkWorkload makes data chunks and has them removed again.
func chunkWorkload(c *crashRun) error {
	for i := range 3 {
		name := fmt.Sprint("/f", i%2)
		if err := c.e.Create(c.ctx, name, btrfs.Attr{Perm: 0o600}); err != nil && !errors.Is(err, syscall.EEXIST) {
			return err
		}
		if err := c.e.Allocate(c.ctx, name, 0, 120<<20, false); err != nil {
			return err
		}
		if _, err := c.e.WriteAt(c.ctx, name, oracle.Text(uint64(i), 100000), int64(i)<<20); err != nil {
			return err
		}
		if err := c.sync(); err != nil {
			return err
		}
		if err := c.e.Remove(c.ctx, name); err != nil {
			return err
		}
		if err := c.sync(); err != nil {
			return err
		}
	}
	return nil
}

// fullWorkload fills a filesystem, and takes away, again and again.
func fullWorkload(c *crashRun) error {
	for i := range max(1, 5/c.part) {
		n := 0
		for ; ; n++ {
			name := fmt.Sprintf("/%d-%d", i, n)
			err := c.e.Create(c.ctx, name, btrfs.Attr{Perm: 0o600})
			if err == nil {
				err = c.e.Allocate(c.ctx, name, 0, int64(c.rnd.IntN(16<<20)+1), false)
			}
			if errors.Is(err, syscall.ENOSPC) {
				break
			}
			if err != nil {
				return err
			}
		}
		if err := c.sync(); err != nil {
			return err
		}
		for k := range n + 1 {
			if err := c.e.Remove(c.ctx, fmt.Sprintf("/%d-%d", i, k)); err != nil && !errors.Is(err, syscall.ENOENT) {
				return err
			}
			if k%3 == 0 {
				if err := c.sync(); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
