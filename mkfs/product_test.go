//go:build linux

package mkfs

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
)

var (
	productStep  = flag.Int("product", 0, "make every Nth filesystem of the whole product of options; 1: all")
	productFirst = flag.Int("product-first", 0, "number of the first one")
)

// product is every profile for data × every profile for metadata × every checksum ×
// every node size × every compression.
func product() (out []combination) {
	for _, d := range disk.Profiles {
		for _, m := range disk.Profiles {
			devices := 1
			for _, p := range []disk.Profile{d, m} {
				devices = max(devices, p.DevsMin)
				if p.DevsMax == 0 { // at least two stripes of data
					devices = max(devices, p.Parity+2*p.SubStripes)
				}
			}
			for csum := range disk.CsumType(4) {
				for node := disk.MinNodeSize; node <= disk.MaxNodeSize; node *= 2 {
					for _, c := range []string{"", "zlib", "lzo", "zstd"} {
						out = append(out, combination{strings.ToLower(d.Name), strings.ToLower(m.Name), devices, node, csum, c, ""})
					}
				}
			}
		}
	}
	return out
}

// smallTree has few files, but one of each way in which contents are kept.
func smallTree(t *testing.T) string {
	t.Helper()
	dir := oracle.Dir(t)
	noise := make([]byte, 150_000)
	for i, x := 0, uint32(1); i < len(noise); i++ {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	text := bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog\n"), 8000)
	for name, b := range map[string][]byte{
		"inline": text[:500], "page": text[:5000], "d/text": text, "d/noise": noise, "d/mixed": append(text[:140_000:140_000], noise[:70_000]...),
		"d/hole": append(make([]byte, 80_000), noise[:9000]...), "d/e/empty": nil,
	} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		os.Symlink("d/text", filepath.Join(dir, "symlink")), os.Link(filepath.Join(dir, "page"), filepath.Join(dir, "d/link")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600), unix.Setxattr(filepath.Join(dir, "page"), "user.a", []byte("b"), 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestWholeProduct makes filesystems of the whole product of options and asks all
// judges about each. All 6480 of them take hours: -product 1 makes them; otherwise it
// is a sample, a larger one with the tag long.
func TestWholeProduct(t *testing.T) {
	step := *productStep
	if step == 0 {
		step = 1297
		if long {
			step = 97
		}
	}
	dir := smallTree(t)
	all := product()
	for i := *productFirst; i < len(all); i += step {
		c := all[i]
		t.Run(c.String(), func(t *testing.T) {
			images := oracle.Sparse(t, c.devices, 1<<30)
			o := Options{Source: Dir(dir), Data: c.data, Metadata: c.metadata, NodeSize: c.nodeSize, Csum: c.csum, Compress: c.compress}
			if _, err := MakeFiles(t.Context(), images, 1<<30, o); err != nil {
				t.Fatal(err)
			}
			judge(t, dir, images...)
		})
	}
}
