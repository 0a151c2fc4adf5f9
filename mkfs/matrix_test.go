//go:build linux

package mkfs

import (
	"fmt"
	"strings"
	"testing"

	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
)

// combination is one point of the matrix.
type combination struct {
	data, metadata string
	devices        int
	nodeSize       int
	csum           disk.CsumType
	compress       string
	features       string
}

func (c combination) String() string {
	return fmt.Sprintf("%s-%s-%d-%dk-%v-%s-%s", c.data, c.metadata, c.devices, c.nodeSize>>10, c.csum, orDefault(c.compress, "plain"), orDefault(c.features, "default"))
}

// matrix has every profile for data and for metadata, and every node size,
// checksum, compression and feature set at least once.
func matrix() []combination {
	var out []combination
	for _, p := range disk.Profiles {
		name := strings.ToLower(p.Name)
		devices := max(p.DevsMin, 1)
		switch {
		case p.Parity > 0, p.SubStripes > 1:
			devices = 4
		case p.DevsMax == 0:
			devices = 3
		}
		out = append(out,
			combination{name, name, devices, 16384, disk.CsumCRC32C, "", ""},
			combination{name, name, devices + 1, 16384, disk.CsumXXHash, "zstd:3", ""})
	}
	for _, n := range []int{4096, 8192, 16384, 32768, 65536} {
		for c := range disk.CsumType(4) {
			out = append(out, combination{"single", "dup", 1, n, c, []string{"", "lzo", "zlib:9", "zstd:15"}[c], ""})
		}
	}
	for _, f := range []string{
		"^block-group-tree", "^free-space-tree", "^no-holes", "^no-holes,^free-space-tree", "^skinny-metadata", "^extref", "mixed-bg",
		"mixed-bg,^block-group-tree,^free-space-tree,^skinny-metadata,^no-holes", "none",
	} {
		n := 16384
		if strings.HasPrefix(f, "mixed") {
			n = 4096
		}
		out = append(out, combination{"single", "single", 1, n, disk.CsumCRC32C, "", f}, combination{"dup", "dup", 1, n, disk.CsumCRC32C, "zlib", f})
	}
	return append(out,
		combination{"raid0", "raid1", 3, 16384, disk.CsumSHA256, "", ""},
		combination{"raid5", "raid1c3", 3, 16384, disk.CsumCRC32C, "lzo", ""},
		combination{"raid6", "raid1c4", 5, 65536, disk.CsumBLAKE2b, "", ""},
		combination{"raid10", "raid1", 5, 4096, disk.CsumCRC32C, "", "mixed-bg,^no-holes"}.mixed())
}

func (c combination) mixed() combination {
	c.metadata = c.data
	return c
}

// TestEveryKindOfFilesystem makes the sample tree in every form and asks all judges.
// Without the tag long it makes every fourth, and half of those shrunk.
func TestEveryKindOfFilesystem(t *testing.T) {
	dir := sampleTree(t)
	for i, c := range matrix() {
		for k, shrink := range []bool{false, true} {
			if !long && i%4 != 2*k { // a quarter, one way or the other
				continue
			}
			name := c.String()
			if shrink {
				name += "-shrink"
			}
			t.Run(name, func(t *testing.T) {
				o := Options{
					Source: Dir(dir), Data: c.data, Metadata: c.metadata, NodeSize: c.nodeSize, Csum: c.csum,
					Compress: c.compress, Features: []string{c.features}, Shrink: shrink, Force: true,
				}
				if shrink && (strings.HasPrefix(c.data, "raid5") || strings.HasPrefix(c.data, "raid6")) {
					// Linux scrubs a parity group only when it can do without it.
					o.Slack = 256 << 20
				}
				images := oracle.Sparse(t, c.devices, 1<<30)
				size := uint64(0)
				if !shrink {
					size = 1 << 30
				}
				if _, err := MakeFiles(t.Context(), images, size, o); err != nil {
					t.Fatal(err)
				}
				judge(t, dir, images...)
			})
		}
	}
}
