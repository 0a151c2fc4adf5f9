package disk

import (
	"archive/tar"
	"compress/gzip"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

// image is a selection of the nodes of a filesystem that Linux wrote.
type image struct {
	name  string
	raw   []byte // superblock
	super *Superblock
	g     Geometry
	nodes []Node
}

// corpus reads testdata, sorted by name.
func corpus(t testing.TB) []image {
	t.Helper()
	f, err := os.Open("testdata/nodes-6.18.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var all []image
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		m := image{name: strings.TrimPrefix(h.Name, "./"), raw: b[:SuperInfoSize]}
		if m.super, err = ParseSuperblock(m.raw); err != nil {
			t.Fatal(err)
		}
		m.g = m.super.Geometry()
		for n := range slices.Chunk(b[SuperInfoSize:], m.g.NodeSize) {
			m.nodes = append(m.nodes, Node(n))
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b image) int { return strings.Compare(a.name, b.name) })
	if len(all) != 12 {
		t.Fatalf("testdata has %d filesystems, want 12", len(all))
	}
	return all
}

// corpusItem is an item of the corpus.
type corpusItem struct {
	image *image
	owner ObjectID
	key   Key
	data  []byte
}

func corpusItems(t testing.TB) []corpusItem {
	t.Helper()
	var items []corpusItem
	images := corpus(t)
	for i := range images {
		for _, n := range images[i].nodes {
			if !n.IsLeaf() {
				continue
			}
			for slot := range n.NrItems() {
				items = append(items, corpusItem{&images[i], n.Owner(), n.Key(slot), n.ItemData(slot)})
			}
		}
	}
	return items
}
