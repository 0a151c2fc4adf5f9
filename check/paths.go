package check

import (
	"strings"

	"gobtrfs/disk"
)

// Limits of the search for paths.
const (
	maxPathDepth   = 256
	maxPathLookups = 20000
)

// pathFinder looks up the paths of inodes, through what is known of the trees.
type pathFinder struct {
	c       *checker
	buf     []byte
	lookups int
	known   map[disk.ObjectID]map[uint64]string
	roots   map[disk.ObjectID]*treeRoot
}

// addPaths adds to each finding the path of its inode, where that can be found.
func (c *checker) addPaths(r *Report) {
	p := &pathFinder{c: c, known: make(map[disk.ObjectID]map[uint64]string), roots: make(map[disk.ObjectID]*treeRoot)}
	f := &c.forests[2]
	for i := range f.roots {
		if root := &f.roots[i]; root.kind == kindFile && root.id != disk.TreeReloc {
			p.roots[root.id] = root
		}
	}
	for i := range r.Findings {
		at := &r.Findings[i].Place
		if root := p.roots[at.Tree]; root != nil && at.Inode != 0 && at.Path == "" {
			at.Path = p.path(root, at.Inode)
		}
	}
}

// path is the path of an inode within its subvolume, "" if it cannot be found.
func (p *pathFinder) path(root *treeRoot, ino uint64) string {
	known := p.known[root.id]
	if known == nil {
		known = make(map[uint64]string)
		p.known[root.id] = known
	}
	start := ino
	var parts []string
	for range maxPathDepth {
		if s, ok := known[ino]; ok && ino != start {
			if s == "" {
				return ""
			}
			parts = append(parts, strings.TrimPrefix(s, "/"))
			break
		}
		if disk.ObjectID(ino) == disk.RootDirObjectID {
			break
		}
		name, parent, ok := p.name(root, ino)
		if !ok {
			known[start] = ""
			return ""
		}
		parts = append(parts, name)
		ino = parent
	}
	var b strings.Builder
	for i := len(parts) - 1; i >= 0; i-- {
		if parts[i] != "" {
			b.WriteString("/" + parts[i])
		}
	}
	if b.Len() == 0 {
		b.WriteString("/")
	}
	known[start] = b.String()
	return b.String()
}

// name is one name of an inode and the directory that has it.
func (p *pathFinder) name(root *treeRoot, ino uint64) (name string, parent uint64, ok bool) {
	if p.lookups++; p.lookups > maxPathLookups {
		return "", 0, false
	}
	want := disk.Key{ObjectID: disk.ObjectID(ino), Type: disk.KeyInodeRef}
	// The reference may be the first item of the leaf behind the one in which
	// a search ends.
	for _, at := range p.leaves(root, want) {
		n := p.read(at)
		if n == nil {
			return "", 0, false
		}
		i, _ := n.Search(want)
		for ; i < n.NrItems() && n.Key(i).ObjectID == want.ObjectID; i++ {
			k := n.Key(i)
			if k.Type == disk.KeyInodeRef && k.Offset != ino {
				if r, _, err := disk.ParseInodeRef(n.ItemData(i)); err == nil {
					return string(r.Name), k.Offset, true
				}
			}
			if k.Type == disk.KeyInodeExtref {
				if r, _, err := disk.ParseInodeExtref(n.ItemData(i)); err == nil {
					return string(r.Name), uint64(r.Parent), true
				}
			}
		}
	}
	return "", 0, false
}

// leaves are the leaf in which k belongs and the one behind it.
func (p *pathFinder) leaves(root *treeRoot, k disk.Key) []disk.Logical {
	f := &p.c.forests[2]
	var out []disk.Logical
	at, next := root.addr, disk.Logical(0)
	for level := int(root.level); ; level-- {
		info, ok := f.find(level, at)
		if !ok || info.bad {
			break
		}
		if level == 0 {
			out = append(out, at)
			break
		}
		if info.kidN == 0 {
			break
		}
		i := f.childFor(&info, k)
		at = f.kid(&info, i).addr
		if next != 0 {
			if n, ok := f.find(level, next); ok && n.kidN > 0 {
				next = f.kid(&n, 0).addr
			}
		}
		if i+1 < int(info.kidN) {
			next = f.kid(&info, i+1).addr
		}
	}
	if next != 0 {
		if info, ok := f.find(0, next); ok && !info.bad {
			out = append(out, next)
		}
	}
	return out
}

func (p *pathFinder) read(at disk.Logical) disk.Node {
	if p.buf == nil {
		p.buf = make([]byte, p.c.geo.NodeSize)
	}
	if p.c.vol.ReadNode(p.c.ctx, at, p.buf, nil) != nil || disk.Node(p.buf).ValidateLayout() != nil {
		return nil
	}
	return p.buf
}
