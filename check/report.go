package check

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"gobtrfs/disk"
)

// Limits of what a report keeps.
const (
	// DefaultMaxFindings is how many findings of one code are kept by default.
	DefaultMaxFindings = 1000
	maxMessageBytes    = 4096
)

// Stats counts what was looked at.
type Stats struct {
	Nodes       uint64 `json:"nodes"`        // tree blocks
	NodeBytes   uint64 `json:"node_bytes"`   // their bytes, one copy
	Trees       uint64 `json:"trees"`        // roots walked
	Inodes      uint64 `json:"inodes"`       // inode items, shared ones once
	Names       uint64 `json:"names"`        // directory entries, shared ones once
	FileExtents uint64 `json:"file_extents"` // shared ones once
	Extents     uint64 `json:"extents"`      // of the extent tree
	DataBytes   uint64 `json:"data_bytes"`   // of data extents
	CsumBytes   uint64 `json:"csum_bytes"`   // of data that has checksums
	BytesUsed   uint64 `json:"bytes_used"`   // data and metadata
	Verified    uint64 `json:"verified"`     // bytes of data verified, copies counted
	Spilled     uint64 `json:"spilled"`      // bytes written to the temporary file
}

func (s *Stats) add(o *Stats) {
	s.Nodes += o.Nodes
	s.NodeBytes += o.NodeBytes
	s.Trees += o.Trees
	s.Inodes += o.Inodes
	s.Names += o.Names
	s.FileExtents += o.FileExtents
	s.Extents += o.Extents
	s.DataBytes += o.DataBytes
	s.CsumBytes += o.CsumBytes
	s.BytesUsed += o.BytesUsed
	s.Verified += o.Verified
	s.Spilled += o.Spilled
}

// Report is the outcome of a check.
type Report struct {
	// Findings are ordered by severity, worst first, then by code and place.
	// At most Options.MaxFindings of each code are kept; Counts has them all.
	Findings []Finding
	Counts   map[Code]int
	Errors   int
	Warnings int
	Stats    Stats
	// Complete is false when the filesystem could not be opened as it should:
	// nothing was checked (Stats.Nodes is 0), or only what can be read in spite
	// of a damaged superblock or chunk tree.
	Complete bool
}

// Damaged says whether anything is wrong that matters.
func (r *Report) Damaged() bool { return r.Errors > 0 }

// SafeToWrite says whether Linux may mount the filesystem for writing without
// making what was found worse.
func (r *Report) SafeToWrite() bool {
	if !r.Complete {
		return false
	}
	for i := range r.Findings {
		if f := &r.Findings[i]; f.Severity == Error && strings.Contains(f.Means, meansNoWrite) {
			return false
		}
	}
	return true
}

// Has says whether there is a finding of that code.
func (r *Report) Has(c Code) bool { return r.Counts[c] > 0 }

// File is a file or directory that a finding is about.
type File struct {
	Tree  disk.ObjectID `json:"tree"`
	Inode uint64        `json:"inode"`
	Path  string        `json:"path,omitempty"` // in the subvolume, "" if not known
}

// Files are the files and directories that errors are about, each once.
func (r *Report) Files() []File {
	var out []File
	seen := make(map[File]bool)
	for i := range r.Findings {
		f := &r.Findings[i]
		if f.Severity < Error || f.Place.Inode == 0 || !f.Place.Tree.IsSubvolume() {
			continue
		}
		x := File{f.Place.Tree, f.Place.Inode, f.Place.Path}
		if !seen[x] {
			seen[x] = true
			out = append(out, x)
		}
	}
	return out
}

// collector gathers findings. Safe for concurrent use.
type collector struct {
	mu         sync.Mutex
	max        int
	counts     map[Code]int
	bySeverity [Error + 1]int
	list       []Finding
	seen       map[findingKey]struct{}
	event      func(Finding)
}

// findingKey tells a finding that was made twice, because a tree block is
// shared, from two.
type findingKey struct {
	code  Code
	place placeKey
	what  string
}

type placeKey struct {
	dev, phys, logical, tree, inode uint64
	mirror                          int
	key                             [3]uint64
}

func newCollector(limit int, event func(Finding)) *collector {
	return &collector{max: limit, counts: make(map[Code]int), seen: make(map[findingKey]struct{}), event: event}
}

// add takes a finding; code, place and words come from the caller, the rest
// from the table of codes.
func (c *collector) add(f Finding) {
	info, ok := codes[f.Code]
	if !ok {
		info = codeInfo{Error, "", false}
	}
	if f.Severity == unset {
		f.Severity = info.severity
	}
	if f.Means == "" {
		f.Means, f.Repairable = info.means, info.repairable
	}
	f.What = clip(f.What)
	f.Expected, f.Found = clip(f.Expected), clip(f.Found)
	p := &f.Place
	k := findingKey{f.Code, placeKey{dev: uint64(p.Dev), phys: p.Physical, logical: uint64(p.Logical), tree: uint64(p.Tree), inode: p.Inode, mirror: p.Mirror}, f.What}
	if p.Key != nil {
		k.place.key = [3]uint64{uint64(p.Key.ObjectID), uint64(p.Key.Type), p.Key.Offset}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.counts[f.Code]
	if n < c.max {
		if _, again := c.seen[k]; again {
			return
		}
		c.seen[k] = struct{}{}
		c.list = append(c.list, f)
	}
	c.counts[f.Code] = n + 1
	c.bySeverity[f.Severity]++
	if n < c.max && c.event != nil {
		c.event(f)
	}
}

// clip bounds a message: names come from the image.
func clip(s string) string {
	if len(s) > maxMessageBytes {
		return s[:maxMessageBytes] + "…"
	}
	return s
}

// counted is the number of findings of a code.
func (c *collector) counted(code Code) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[code]
}

// report makes the final report.
func (c *collector) report() *Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &Report{Findings: c.list, Counts: c.counts, Errors: c.bySeverity[Error], Warnings: c.bySeverity[Warning]}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b.Severity, a.Severity), cmp.Compare(a.Code, b.Code),
			cmp.Compare(a.Place.Tree, b.Place.Tree), cmp.Compare(a.Place.Inode, b.Place.Inode),
			cmp.Compare(a.Place.Logical, b.Place.Logical), cmp.Compare(a.Place.Dev, b.Place.Dev),
			cmp.Compare(a.Place.Physical, b.Place.Physical), cmp.Compare(a.What, b.What))
	})
	return r
}
