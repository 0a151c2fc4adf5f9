package volume

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/csum"
)

// What a caller does wrong, or an address that no chunk holds, is an error, and
// the buffer never keeps bytes that were not verified.
func TestRefusedReads(t *testing.T) {
	s := newSynth()
	v := mustOpen(t, s.write(t), Options{})
	c := v.Chunks()[0]
	buf := make([]byte, 3*synthNodeSize)
	sums := make([]byte, 3*4)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	node := buf[:synthNodeSize]
	for _, r := range []struct {
		name string
		read func() error
		want error // nil: any
	}{
		{"unmapped", func() error { return v.ReadMirror(t.Context(), 1<<60, buf, 1) }, ErrUnmapped},
		{"across the chunk's end", func() error { return v.ReadMirror(t.Context(), c.End()-4096, buf, 1) }, ErrUnmapped},
		{"data across the chunk's end", func() error { return v.ReadData(t.Context(), c.End()-4096, buf, nil) }, ErrUnmapped},
		{"node outside", func() error { return v.ReadNode(t.Context(), 0, node, nil) }, ErrUnmapped},
		{"node off its alignment", func() error { return v.ReadNode(t.Context(), synthRoot+512, node, nil) }, ErrCorrupt},
		{"mirror 0", func() error { return v.ReadMirror(t.Context(), c.Logical, buf, 0) }, nil},
		{"mirror 3 of 2", func() error { return v.ReadMirror(t.Context(), c.Logical, buf, 3) }, nil},
		{"node buffer of another size", func() error { return v.ReadNode(t.Context(), synthRoot, buf, nil) }, nil},
		{"data off its alignment", func() error { return v.ReadData(t.Context(), c.Logical+1, buf, nil) }, nil},
		{"too few checksums", func() error { return v.ReadData(t.Context(), c.Logical, buf, sums[:4]) }, nil},
		{"cancelled data", func() error { return v.ReadData(ctx, c.Logical, buf, sums) }, context.Canceled},
		{"cancelled node", func() error { return v.ReadNode(ctx, synthRoot, node, nil) }, context.Canceled},
		{"cancelled write", func() error { return v.Write(ctx, c.Logical, buf) }, context.Canceled},
		{"map outside", func() error { _, err := v.Map(c.End()-1, 1<<40); return err }, ErrUnmapped},
		{"write outside", func() error { return v.Write(t.Context(), 1<<60, buf) }, ErrUnmapped},
	} {
		if err := r.read(); err == nil || r.want != nil && !errors.Is(err, r.want) {
			t.Errorf("%s: err = %v, want %v", r.name, err, r.want)
		}
	}
	if v.Mirrors(1<<60) != 0 {
		t.Error("mirrors of an unmapped address")
	}
	if _, ok := v.Chunk(1 << 60); ok {
		t.Error("chunk of an unmapped address")
	}
}

// A check that refuses a copy sends the read to the next mirror; when it
// refuses all the error has both the place and what the check knew.
func TestNodeCheckDecides(t *testing.T) {
	var log eventLog
	s := newSynth()
	v := mustOpen(t, s.write(t), Options{Events: log.events()})
	buf := make([]byte, synthNodeSize)
	calls := 0
	err := v.ReadNode(t.Context(), synthLeaf, buf, func(disk.Node) error {
		if calls++; calls == 1 {
			return &CorruptError{Tree: disk.TreeFS, What: "not this one"}
		}
		return nil
	})
	if err != nil || calls != 2 || len(log.corrupt) != 1 || len(log.repaired) != 1 {
		t.Fatalf("err = %v after %d calls, events %+v", err, calls, &log)
	}
	if e := log.corrupt[0]; e.Tree != disk.TreeFS || e.What != "not this one" || e.Dev == 0 || e.Physical == 0 || e.Logical != synthLeaf || e.Mirror == 0 {
		t.Errorf("event %+v", e)
	}
	cause := errors.New("no good")
	err = v.ReadNode(t.Context(), synthLeaf, buf, func(disk.Node) error { return cause })
	var e *CorruptError
	if !errors.As(err, &e) || !errors.Is(err, cause) || e.Logical != synthLeaf {
		t.Errorf("err = %v", err)
	}
	if !bytes.Equal(buf, make([]byte, len(buf))) {
		t.Error("a node that was refused is left in the buffer")
	}
}

// A member that fails to be read while another is being reconstructed is made
// up for too, as long as there is parity.
func TestRebuildSurvivesAFailingMember(t *testing.T) {
	for _, c := range []struct {
		flags disk.BlockGroupFlags
		n     int
		ok    bool
	}{{disk.BlockGroupRAID6, 5, true}, {disk.BlockGroupRAID5, 4, false}} {
		for other := 1; other < c.n; other++ {
			v, ch, mem := arrayOf(c.flags, c.n, 2*disk.StripeLen, Options{})
			data := bytes.Repeat([]byte("reconstruct"), int(ch.Length)/11+1)[:ch.Length]
			naiveFill(t, ch, mem, data)
			v.devices[0].dev = nil
			v.devices[other].dev = &failing{Device: mem[other], to: 1 << 60}
			buf := make([]byte, len(data))
			err := v.ReadData(t.Context(), ch.Logical, buf, nil)
			if c.ok && (err != nil || !bytes.Equal(buf, data)) {
				t.Errorf("%v without 1 and %d: %v", c.flags, other+1, err)
			}
			var dev *DeviceError
			if !c.ok && !errors.As(err, &dev) {
				t.Errorf("%v without 1 and %d: err = %v", c.flags, other+1, err)
			}
		}
	}
}

// While a member is reconstructed, a stale one is no source as long as parity
// makes up for both: without checksums nothing else would notice.
func TestRebuildLeavesOutStaleMembers(t *testing.T) {
	for other := 1; other < 5; other++ {
		v, ch, mem := arrayOf(disk.BlockGroupRAID6, 5, 2*disk.StripeLen, Options{})
		data := bytes.Repeat([]byte("reconstruct"), int(ch.Length)/11+1)[:ch.Length]
		naiveFill(t, ch, mem, data)
		v.devices[0].dev = nil
		v.devices[other].stale = true
		if err := mem[other].Discard(0, mem[other].Size()); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, len(data))
		if err := v.ReadData(t.Context(), ch.Logical, buf, nil); err != nil || !bytes.Equal(buf, data) {
			t.Errorf("device 1 missing, %d stale: %v, same bytes: %v", other+1, err, bytes.Equal(buf, data))
		}
	}
}

// Only the data stripe is overwritten when a reconstruction failed as well: a
// reconstruction has no place of its own.
func TestMendAfterAFailedReconstruction(t *testing.T) {
	var log eventLog
	v, ch, mem := arrayOf(disk.BlockGroupRAID6, 5, disk.StripeLen, Options{Events: log.events()})
	data := bytes.Repeat([]byte("reconstruct"), int(ch.Length)/11+1)[:ch.Length]
	naiveFill(t, ch, mem, data)
	for _, stripe := range []int{0, ch.data} { // the first data stripe and P
		if _, err := mem[stripe].WriteAt([]byte{0xff}, int64(ch.Stripes[stripe].Offset)); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 4096)
	sums := csum.AppendBlocks(nil, disk.CsumCRC32C, data[:4096], 4096)
	r, err := v.Mend(t.Context(), ch.Logical, 4096, judgeBy(sums))
	if err != nil || r.Mirror != 3 || r.Rewritten != 1 || len(log.mended) != 1 {
		t.Errorf("mend: %+v, %v; events %+v", r, err, log.mended)
	}
	if err := v.ReadMirror(t.Context(), ch.Logical, buf, 1); err != nil || !bytes.Equal(buf, data[:4096]) {
		t.Errorf("data stripe after the repair: %v", err)
	}
}

// refusing is a device that takes no writes.
type refusing struct{ blockdev.Device }

func (refusing) WriteAt([]byte, int64) (int, error) { return 0, errors.New("write protected") }
func (refusing) Sync() error                        { return errors.New("cannot flush") }

func TestRefusedWrites(t *testing.T) {
	var log eventLog
	v, c, mem := arrayOf(disk.BlockGroupRAID1, 2, disk.StripeLen, Options{Events: log.events()})
	data := bytes.Repeat([]byte{7}, int(c.Length))
	naiveFill(t, c, mem, data)
	o := c.order(0)
	first, _ := o.next() // the one that is asked first is the bad one
	v.devices[first-1].dev = refusing{&failing{Device: mem[first-1], to: 1 << 60}}
	var dev *DeviceError
	if err := v.Write(t.Context(), c.Logical, data); !errors.As(err, &dev) || dev.Op != "write" || dev.Dev != disk.DevID(first) {
		t.Errorf("write: %v", err)
	}
	if err := v.Sync(); !errors.As(err, &dev) || dev.Op != "sync" {
		t.Errorf("sync: %v", err)
	}
	// Mending that cannot be written is told and is no error.
	buf := make([]byte, 4096)
	if err := v.ReadData(t.Context(), c.Logical, buf, nil); err != nil || !bytes.Equal(buf, data[:4096]) {
		t.Errorf("read: %v", err)
	}
	r, err := v.Mend(t.Context(), c.Logical, 4096, func([]byte) error { return nil })
	if err != nil || r.Err == nil || r.Rewritten != 0 || len(log.mended) != 1 {
		t.Errorf("mend: %+v, %v; events %+v", r, err, log.mended)
	}
	want := disk.DevStats{WriteErrs: 2, FlushErrs: 1, ReadErrs: 2}
	if got := v.Errors()[disk.DevID(first)]; got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}
