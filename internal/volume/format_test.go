package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
)

// Every checksum, and node sizes other than the default.
func TestChecksumsAndNodeSizes(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	for _, args := range [][]string{
		{"--csum", "crc32c", "-n", "4096"},
		{"--csum", "xxhash", "-n", "65536"},
		{"--csum", "sha256", "-n", "16384"},
		{"--csum", "blake2", "-n", "32768"},
		{"--mixed"},
	} {
		t.Run(fmt.Sprint(args), func(t *testing.T) {
			images, files := kernelImage(t, 1, 320<<20, args...)
			v := mustOpen(t, openFiles(t, images...), Options{})
			img, err := readAll(t.Context(), v)
			if err != nil {
				t.Fatal(err)
			}
			requireFiles(t, v, files)
			requireMirrors(t, v, img)
		})
	}
}

// Sectors larger than a page: this kernel may not mount them, mkfs makes them.
func TestLargeSectors(t *testing.T) {
	for _, size := range []string{"8192", "16384", "65536"} {
		t.Run(size, func(t *testing.T) {
			dir := t.TempDir()
			files := map[string][]byte{}
			for name, b := range contents() {
				if name == "odd1" || name == "odd4" {
					b = b[:len(b)/65536*65536]
					files[name] = b
				}
				if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			image := oracle.Mkfs(t, 320<<20, "-s", size, "-n", "65536", "--rootdir", dir)
			v := mustOpen(t, openFiles(t, image), Options{})
			if len(v.ReadOnly()) == 0 {
				t.Error("may be written")
			}
			img, err := readAll(t.Context(), v)
			if err != nil {
				t.Fatal(err)
			}
			requireMirrors(t, v, img)
			requireFiles(t, v, files)
		})
	}
}

// No tool at hand makes a raid-stripe-tree, so the volume is made by hand: data
// stands where the strides say, and nothing where the chunk says.
func TestStripeTree(t *testing.T) {
	const length = 96 << 10
	for _, c := range []struct {
		flags   disk.BlockGroupFlags
		stripes int
		strides func(c *chunk, l disk.Logical) []disk.RaidStride // for one piece
	}{
		{disk.BlockGroupRAID1, 2, func(c *chunk, _ disk.Logical) []disk.RaidStride {
			return []disk.RaidStride{{DevID: 2, Physical: 3 << 20}, {DevID: 1, Physical: 5 << 20}}
		}},
		{disk.BlockGroupDUP, 2, func(c *chunk, _ disk.Logical) []disk.RaidStride {
			return []disk.RaidStride{{DevID: 1, Physical: 3 << 20}, {DevID: 1, Physical: 5 << 20}}
		}},
		{disk.BlockGroupRAID0, 3, func(c *chunk, l disk.Logical) []disk.RaidStride {
			nr := uint64(l-c.Logical) / disk.StripeLen
			return []disk.RaidStride{{DevID: disk.DevID(nr%3 + 1), Physical: 3<<20 + nr*disk.StripeLen}}
		}},
	} {
		t.Run(disk.ProfileOf(c.flags).Name, func(t *testing.T) {
			v, ch, mem := arrayOf(c.flags, c.stripes, 8*disk.StripeLen, Options{})
			if c.flags == disk.BlockGroupDUP {
				for i := range ch.Stripes {
					ch.Stripes[i].DevID, ch.devs[i] = 1, v.devices[0]
				}
			}
			sb := *v.Super()
			sb.IncompatFlags |= disk.IncompatRaidStripeTree
			if inStripeTree(&sb, disk.BlockGroupRAID5|disk.BlockGroupData) || inStripeTree(&sb, c.flags|disk.BlockGroupMetadata) ||
				inStripeTree(v.Super(), ch.Type) {
				t.Fatal("a chunk that the tree does not describe")
			}
			ch.remapped = inStripeTree(&sb, ch.Type)
			buf := make([]byte, length)
			if err := v.ReadData(t.Context(), ch.Logical, buf, nil); !errors.Is(err, errors.ErrUnsupported) {
				t.Fatalf("read before the tree is known: %v", err)
			}
			piece := func(l disk.Logical) (start disk.Logical, n uint64) {
				off := uint64(l-ch.Logical) / disk.StripeLen * disk.StripeLen
				if off >= length {
					return 0, 0
				}
				return ch.Logical + disk.Logical(off), min(disk.StripeLen, length-off)
			}
			v.SetStripeTree(func(_ context.Context, l disk.Logical) ([]disk.RaidStride, disk.Logical, uint64, error) {
				start, n := piece(l)
				strides := c.strides(ch, start)
				for i := range strides {
					if c.flags != disk.BlockGroupRAID0 {
						strides[i].Physical += uint64(start - ch.Logical)
					}
				}
				return strides, start, n, nil
			})
			want := make([]byte, length)
			for i := range want {
				want[i] = byte(i>>12) + 1
			}
			for off := 0; off < length; off += disk.StripeLen {
				start, n := piece(ch.Logical + disk.Logical(off))
				for _, s := range c.strides(ch, start) {
					at := int64(s.Physical)
					if c.flags != disk.BlockGroupRAID0 {
						at += int64(off)
					}
					if _, err := mem[s.DevID-1].WriteAt(want[off:off+int(n)], at); err != nil {
						t.Fatal(err)
					}
				}
			}
			for m := 1; m <= v.Mirrors(ch.Logical); m++ {
				if err := v.ReadMirror(t.Context(), ch.Logical+4096, buf[4096:], m); err != nil {
					t.Fatal(err)
				}
				if string(buf[4096:]) != string(want[4096:]) {
					t.Errorf("mirror %d differs", m)
				}
			}
			var e *CorruptError
			if err := v.ReadData(t.Context(), ch.Logical+length, buf[:4096], nil); !errors.As(err, &e) || e.Tree != disk.TreeRaidStripe {
				t.Errorf("read of what no entry covers: %v", err)
			}
			if err := v.Write(t.Context(), ch.Logical, buf[:4096]); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("write: %v", err)
			}
		})
	}
}
