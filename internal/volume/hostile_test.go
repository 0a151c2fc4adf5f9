package volume

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
)

// Trees that no kernel writes end in an error that says where.
func TestHostileChunkTrees(t *testing.T) {
	const last = len(disk.Profiles) // index of the last chunk
	for _, c := range []struct {
		name   string
		change func(*synth)
		// want, "" if it opens
		what string
		tree bool // the error names the tree and an address
	}{
		{"sound", func(*synth) {}, "", false},
		{"root points to itself", func(s *synth) {
			s.root.SetPtr(1, s.root.Key(1), synthRoot, 7)
		}, "used twice", true},
		{"one leaf twice", func(s *synth) {
			s.root.SetPtr(1, s.root.Key(1), synthLeaf, 7)
		}, "used twice", true},
		{"first key is not what the parent says", func(s *synth) {
			k := s.root.Key(1)
			k.Offset++
			s.root.SetPtr(1, k, s.root.BlockPtr(1), 7)
		}, "as its parent says", true},
		{"leaves out of order", func(s *synth) {
			k0, k1, p0, p1 := s.leaves[1].Key(0), disk.MaxKey, s.root.BlockPtr(1), s.root.BlockPtr(0)
			s.root.SetPtr(0, k0, p0, 7)
			s.root.SetPtr(1, k1, p1, 7)
		}, "as its parent says", true},
		{"wrong generation", func(s *synth) { s.leaves[1].SetGeneration(6) }, "generation 6, want 7", true},
		{"wrong owner", func(s *synth) { s.leaves[0].SetOwner(disk.TreeFS) }, "owner", true},
		{"wrong level", func(s *synth) { s.root.SetLevel(2) }, "level 2, want 1", true},
		{"root level too high", func(s *synth) { s.sb.ChunkRootLevel = 3 }, "level 1, want 3", true},
		{"node of another filesystem", func(s *synth) { s.leaves[1][32] ^= 1 }, "node of filesystem", false},
		{"node of another address", func(s *synth) { s.leaves[1].SetBytenr(synthLeaf + 5*synthNodeSize) }, "lives at", false},
		{"root outside every chunk", func(s *synth) { s.sb.ChunkRoot = 1 << 50 }, "no chunk maps", false},
		{"child outside every chunk", func(s *synth) { s.root.SetPtr(1, s.root.Key(1), 1<<62, 7) }, "no chunk maps", false},
		{"child off its alignment", func(s *synth) { s.root.SetPtr(1, s.root.Key(1), synthLeaf+1, 7) }, "block pointer", true},
		{"overlapping chunks", func(s *synth) {
			s.chunks[last].Logical -= 65536
			s.build()
		}, "overlaps the chunk", true},
		{"overlapping stripes", func(s *synth) {
			s.chunks[last].Stripes[0].Offset = s.chunks[1].Stripes[0].Offset
			s.build()
		}, "overlaps a stripe", true},
		{"stripe behind the device", func(s *synth) {
			s.chunks[last].Stripes[0].Offset = synthSize - 4096
			s.build()
		}, "reach behind the device", true},
		{"stripe at the end of the numbers", func(s *synth) {
			s.chunks[last].Stripes[0].Offset = 1<<64 - 4096
			s.build()
		}, "reach behind the device", true},
		{"length that does not fit the device", func(s *synth) {
			s.chunks[last].Length = 1 << 46
			s.build()
		}, "reach behind the device", true},
		{"length beyond all limits", func(s *synth) {
			s.chunks[last].Length = 1 << 60
			s.build()
		}, "length", true},
		{"address space wraps", func(s *synth) {
			s.chunks[last].Logical = 1<<64 - 65536
			s.build()
		}, "length", true},
		{"stripe on an unknown device", func(s *synth) {
			s.chunks[last].Stripes[0].DevID = 99
			s.build()
		}, "no device item", true},
		{"stripe with another device's uuid", func(s *synth) {
			s.chunks[last].Stripes[0].DevUUID[5] = 1
			s.build()
		}, "device uuid", true},
		{"no stripes", func(s *synth) {
			s.chunks[last].Stripes = nil
			s.build()
		}, "num_stripes", true},
		{"two profiles", func(s *synth) {
			s.chunks[last].Type |= disk.BlockGroupRAID0
			s.build()
		}, "at most one profile", true},
		{"no system chunks", func(s *synth) { s.sb.SysChunkArray = nil }, "sys_chunk_array_size", false},
		{"stray bytes among the system chunks", func(s *synth) { s.sb.SysChunkArray = append(s.sb.SysChunkArray, 1, 2, 3) }, "stray bytes", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSynth()
			c.change(s)
			v, err := Open(t.Context(), s.write(t), Options{})
			if c.what == "" {
				if err != nil || len(v.Notices()) != 0 {
					t.Fatalf("err = %v", err)
				}
				return
			}
			var e *CorruptError
			if !errors.As(err, &e) || !strings.Contains(err.Error(), c.what) {
				t.Fatalf("err = %v, want a corruption about %q", err, c.what)
			}
			if c.tree && (e.Tree != disk.TreeChunk || e.Logical == 0) {
				t.Errorf("err = %v names tree %v, logical %d", err, e.Tree, e.Logical)
			}
		})
	}
}

// What does not stop reading is told.
func TestOddChunkTreesOpen(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*synth)
		kind   NoticeKind
		words  string
	}{
		{"system chunk only in the superblock", func(s *synth) {
			array := s.sb.SysChunkArray
			s.chunks = s.chunks[1:]
			s.build()
			s.sb.SysChunkArray = array
		}, NoticeSystemChunks, "1048576"},
		{"system chunk is shorter in the tree", func(s *synth) {
			array := s.sb.SysChunkArray
			s.chunks[0].Length /= 2
			s.build()
			s.sb.SysChunkArray = array
		}, NoticeSystemChunks, "1048576"},
		{"count of devices", func(s *synth) { s.sb.NumDevices = 9 }, NoticeDeviceCount, "9 devices"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSynth()
			want := s.chunks[0]
			c.change(s)
			v := mustOpen(t, s.write(t), Options{})
			requireNotice(t, v, c.kind, c.words)
			if got, ok := v.Chunk(synthSystem); !ok || got.Length != want.Length {
				t.Errorf("system chunk %+v, want that of the superblock", got)
			}
		})
	}
}

// The chunk root of the backup serves when the current one is gone, but only
// when a backup was asked for.
func TestBackupChunkRoot(t *testing.T) {
	s := newSynth()
	s.sb.BackupRoots[2] = disk.RootBackup{TreeRoot: 32 << 20, TreeRootGen: 6, ChunkRoot: synthRoot, ChunkRootGen: 7, ChunkRootLevel: 1, BytesUsed: 1 << 20}
	s.sb.ChunkRoot += 16 * synthNodeSize // nothing is there
	devs := s.write(t)
	if _, err := Open(t.Context(), devs, Options{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("without a backup: %v", err)
	}
	v := mustOpen(t, devs, Options{BackupRoot: 1})
	requireNotice(t, v, NoticeChunkRoot, "checksum mismatch")
	if sb := v.Super(); sb.Root != 32<<20 || sb.Generation != 6 {
		t.Errorf("root %d of generation %d", sb.Root, sb.Generation)
	}
}

// A new chunk map is found at once; one that cannot be is refused and changes
// nothing.
func TestSetChunks(t *testing.T) {
	s := newSynth()
	v := mustOpen(t, s.write(t), Options{})
	list := append([]disk.ChunkMapping{}, v.Chunks()...)
	fresh := list[1] // single
	fresh.Logical = list[len(list)-1].End()
	fresh.Stripes = []disk.Stripe{{DevID: 3, Offset: 32 << 20, DevUUID: synthUUID(3)}}
	if err := v.SetChunks(append(list, fresh)); err != nil {
		t.Fatal(err)
	}
	want := []byte("in the new chunk")
	if err := v.Write(t.Context(), fresh.Logical, want); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := s.mem[2].ReadAt(got, 32<<20); err != nil || string(got) != string(want) {
		t.Errorf("device 3 has %q, %v", got, err)
	}
	overlap := fresh
	overlap.Logical = fresh.End()
	if err := v.SetChunks(append(list, fresh, overlap)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("two chunks on the same bytes: %v", err)
	}
	if len(v.Chunks()) != len(list)+1 {
		t.Errorf("%d chunks after the refusal, want %d", len(v.Chunks()), len(list)+1)
	}
}

// typed says whether an error is of a kind that a caller can tell apart.
func typed(err error) bool {
	var u *UnsupportedError
	var d *DeviceError
	return errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotBtrfs) || errors.As(err, &u) || errors.As(err, &d)
}

// exercise reads something of every chunk in every way, and returns the first
// error that is not typed.
func exercise(ctx context.Context, v *Volume) error {
	buf := make([]byte, 128<<10)
	ok := func(err error) error {
		if err != nil && !typed(err) {
			return err
		}
		return nil
	}
	for i := range v.Chunks() {
		c := &v.Chunks()[i]
		for _, at := range [...]disk.Logical{c.Logical, c.Logical + disk.Logical(c.Length/2/4096*4096), c.End() - 4096} {
			n := min(uint64(c.End()-at), uint64(len(buf)))
			for m := 1; m <= min(v.Mirrors(at), 5); m++ {
				if err := ok(v.ReadMirror(ctx, at, buf[:n], m)); err != nil {
					return err
				}
			}
			sectors := n / uint64(v.Super().SectorSize)
			n = sectors * uint64(v.Super().SectorSize)
			at = at / disk.Logical(v.Super().SectorSize) * disk.Logical(v.Super().SectorSize)
			sums := make([]byte, int(sectors)*v.Super().CsumType.Size())
			_, mapErr := v.Map(at, n)
			if err := errors.Join(ok(mapErr), ok(v.ReadData(ctx, at, buf[:n], sums)), ok(v.ReadData(ctx, at, buf[:n], nil)),
				ok(v.ReadNode(ctx, at, buf[:v.Super().NodeSize], nil))); err != nil {
				return err
			}
		}
	}
	return nil
}

// openLimit is far more than any mutated image here needs.
const openLimit = 10 * time.Second

// FuzzOpen changes bytes of the superblock and of the chunk tree, puts the
// checksums right again, and reads.
func FuzzOpen(f *testing.F) {
	f.Add([]byte{}, uint8(0))
	f.Add([]byte{0, 0, 136, 9}, uint8(0)) // num_devices
	f.Add([]byte{0, 3, 59, 1}, uint8(1))  // system chunk array
	f.Add([]byte{1, 0, 126, 3}, uint8(2)) // a child's address
	f.Add([]byte{2, 15, 200, 1, 0, 0, 188, 2}, uint8(4))
	f.Fuzz(func(t *testing.T, edits []byte, gone uint8) {
		s := newSynth()
		sb, err := s.sb.Encode()
		if err != nil {
			t.Fatal(err)
		}
		targets := [][]byte{sb, s.root, s.leaves[0], s.leaves[1]}
		for ; len(edits) >= 4; edits = edits[4:] {
			b := targets[int(edits[0])%len(targets)]
			b[(int(edits[1])<<8|int(edits[2]))%len(b)] ^= edits[3]
		}
		if parsed, err := disk.ParseSuperblock(sb); err == nil {
			s.sb = *parsed
		}
		var devs []blockdev.Device
		for i, d := range s.write(t) {
			if gone>>i&1 == 0 {
				devs = append(devs, d)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), openLimit)
		defer cancel()
		v, err := Open(ctx, devs, Options{Degraded: true})
		if err != nil {
			if !typed(err) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		if err := exercise(ctx, v); err != nil {
			t.Fatalf("untyped error: %v", err)
		}
	})
}

// A device that ends inside a chunk gives an error with the place, not short
// data.
func TestReadBehindTruncatedDevice(t *testing.T) {
	s := newSynth()
	devs := s.write(t)
	end := s.chunks[1].Stripes[0].Offset + 4096
	short, err := blockdev.Section(devs[0], 0, int64(end))
	if err != nil {
		t.Fatal(err)
	}
	devs[0] = short
	v := mustOpen(t, devs, Options{})
	buf := make([]byte, 8192)
	err = v.ReadData(t.Context(), s.chunks[1].Logical, buf, nil)
	var e *DeviceError
	if !errors.As(err, &e) || !errors.Is(err, io.ErrUnexpectedEOF) || e.Dev != 1 || e.Off != end || !strings.Contains(err.Error(), "logical") {
		t.Errorf("err = %v, want the read of device 1 at %d", err, end)
	}
}
