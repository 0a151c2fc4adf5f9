package btrfs_test

import (
	"bytes"
	"context"
	"errors"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/clock"
	"gobtrfs/internal/specimen"
	"gobtrfs/mkfs"
)

// editUntilDamage makes random edits, always the same, and commits them now and
// then, until one meets damage. It calls committed after each commit.
func editUntilDamage(t *testing.T, d blockdev.Device, committed func()) error {
	t.Helper()
	ctx := t.Context()
	f, err := btrfs.OpenDevices(ctx, []blockdev.Device{d}, btrfs.Options{Writable: true, Clock: clock.NewManual(time.Unix(1e9, 0))})
	if err != nil {
		return err
	}
	defer f.Close()
	top, err := f.TopLevel(ctx)
	if err != nil {
		return err
	}
	e, err := top.Edit()
	must(t, err)
	w := &ourSide{Editor: e, w: f.Writer()}
	gen := opMaker{rnd: rand.New(rand.NewPCG(3, 3))}
	last := f.Super().Generation
	for i := range 120 {
		err := gen.next().onOurs(ctx, w)
		if i%30 == 29 && !errors.Is(err, btrfs.ErrCorrupt) {
			err = f.Sync(ctx)
		}
		if cause := f.Failed(); cause != nil {
			if err := e.Mkdir(ctx, "/after", btrfs.Attr{}); !errors.Is(err, cause) {
				t.Errorf("a change after %v: %v", cause, err)
			}
			return cause
		}
		if errors.Is(err, btrfs.ErrCorrupt) {
			return err
		}
		if g := f.Super().Generation; g != last { // snapshots commit by themselves
			last = g
			committed()
		}
	}
	return nil
}

// TestDamageEndsWriting spoils every tree block in turn, in all its copies, and
// edits. Where the damage is met that is said, writing ends, and the rest of the
// device is one of the commits: with the block mended it is whole.
func TestDamageEndsWriting(t *testing.T) {
	t.Parallel()
	good := blockdev.NewMemory(96 << 20)
	_, err := mkfs.Make(t.Context(), []blockdev.Device{good}, mkfs.Options{NodeSize: 4096})
	must(t, err)
	must(t, editUntilDamage(t, good, func() {}))
	img := newImage(t, contentsOf(t, good))
	var commits [][]byte
	note := func(d blockdev.Device) {
		files, err := listing(d)
		must(t, err)
		commits = append(commits, files)
	}
	note(good)
	undamaged := good.Clone()
	must(t, editUntilDamage(t, undamaged, func() { note(undamaged) }))

	copies := make(map[disk.Logical][]int64)
	for _, at := range img.blocks[1:] {
		n := disk.Node(img.raw[at : at+int64(img.super.NodeSize)])
		copies[n.Bytenr()] = append(copies[n.Bytenr()], at)
	}
	step, met := 1, 0
	if testing.Short() {
		step = 10
	}
	for i, addr := range slices.Sorted(maps.Keys(copies)) {
		if i%step != 0 {
			continue
		}
		m := good.Clone()
		spoil := func() {
			for _, at := range copies[addr] {
				var b [1]byte
				_, err := m.ReadAt(b[:], at+200)
				must(t, err)
				b[0] ^= 1
				_, err = m.WriteAt(b[:], at+200)
				must(t, err)
			}
		}
		spoil()
		err := editUntilDamage(t, m, func() {})
		if err == nil {
			continue // it is in no tree any more, or was not needed
		}
		met++
		if !errors.Is(err, btrfs.ErrCorrupt) {
			t.Errorf("block %d spoiled: %v", addr, err)
		}
		spoil() // once more: that mends it
		got, err := listing(m)
		must(t, err)
		if !slices.ContainsFunc(commits, func(c []byte) bool { return bytes.Equal(c, got) }) {
			t.Errorf("block %d spoiled: the device does not show a commit", addr)
		}
		wholeDevice(t, m)
	}
	t.Logf("%d tree blocks, of which every %d. was spoiled and %d were met", len(copies), step, met)
	if met == 0 {
		t.Error("no damage was met")
	}
}

func contentsOf(t *testing.T, d blockdev.Device) []byte {
	t.Helper()
	raw := make([]byte, d.Size())
	_, err := d.ReadAt(raw, 0)
	must(t, err)
	return raw
}

// FuzzEdit opens a mutated filesystem for writing and edits it: no panic, no
// endless loop, whatever happens to it.
func FuzzEdit(f *testing.F) {
	img := newImage(f, specimen.Unclean(f))
	base := blockdev.NewMemory(int64(len(img.raw)))
	for off := 0; off < len(img.raw); off += 64 << 10 {
		if b := img.raw[off:min(off+64<<10, len(img.raw))]; slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) {
			if _, err := base.WriteAt(b, int64(off)); err != nil {
				f.Fatal(err)
			}
		}
	}
	f.Add([]byte{})
	for i := range len(img.blocks) {
		f.Add([]byte{byte(i), 0, byte(i * 7), 0, 1, 255, 255, 255, 127, 5, 6, 7, 8})
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		m := base.Clone()
		for at, b := range img.mutate(script).changed {
			_, err := m.WriteAt(b, at)
			must(t, err)
		}
		editHostile(ctx, t, m, script)
		if ctx.Err() != nil {
			t.Fatal("edits took more than 20 s")
		}
	})
}

func editHostile(ctx context.Context, t *testing.T, d blockdev.Device, script []byte) {
	f, err := btrfs.OpenDevices(ctx, []blockdev.Device{d}, btrfs.Options{Writable: true, CacheBytes: 4 << 20, CommitInterval: -1})
	if err != nil {
		return
	}
	defer f.Close()
	top, err := f.TopLevel(ctx)
	if err != nil {
		return
	}
	e, err := top.Edit()
	must(t, err)
	w := &ourSide{Editor: e, w: f.Writer()}
	h := fnv.New64a()
	h.Write(script)
	gen := opMaker{rnd: rand.New(rand.NewPCG(h.Sum64(), 1))}
	for i := range 40 {
		o := gen.next()
		gen.learn(o, o.onOurs(ctx, w))
		if i%20 == 19 {
			_ = f.Sync(ctx) // what comes of it is anything but a panic
		}
	}
}
