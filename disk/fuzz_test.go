package disk

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"testing"
)

// A target per decoder. What each must keep: no panic on any input; nothing
// made that is larger than the input; an error wraps ErrFormat; and encoding what
// was decoded gives bytes that decode to the same again.

// codec is a decoder with its encoder.
type codec[T any] struct {
	parse func(b []byte) (T, error)
	app   func(v *T, b []byte) []byte
	// exact: every byte of the item is in the struct, so the bytes come back.
	exact bool
	size  func(v *T) int // bytes of slices that the decoder made
}

// fuzz runs the codec over inputs that begin with the corpus's items of types.
func (c codec[T]) fuzz(f *testing.F, types ...KeyType) {
	seed(f, types, func(_ Key, data []byte) { f.Add(data) })
	f.Fuzz(c.check)
}

func (c codec[T]) check(t *testing.T, b []byte) {
	v, err := c.parse(b)
	if err != nil {
		if !errors.Is(err, ErrFormat) {
			t.Fatalf("error %v does not wrap ErrFormat", err)
		}
		return
	}
	if c.size != nil && c.size(&v) > len(b) {
		t.Fatalf("%d bytes made of %d", c.size(&v), len(b))
	}
	if c.app == nil {
		return
	}
	out := c.app(&v, []byte{})
	if c.exact && !bytes.Equal(out, b[:min(len(out), len(b))]) {
		t.Fatalf("item\n%x came back as\n%x", b, out)
	}
	again, err := c.parse(out)
	if err != nil || !reflect.DeepEqual(v, again) {
		t.Fatalf("%+v\ncame back as\n%+v, error %v", v, again, err)
	}
}

// seed calls add with the corpus's items of the types, equal ones once.
func seed(f testing.TB, types []KeyType, add func(k Key, data []byte)) {
	seen := map[string]bool{}
	for _, it := range corpusItems(f) {
		for _, typ := range types {
			if it.key.Type == typ && !seen[string(it.data)] && len(seen) < 40 {
				seen[string(it.data)] = true
				add(it.key, it.data)
			}
		}
	}
}

// whole is for decoders of the first of several entries: it gives the rest back
// to nobody, so that an entry can be compared.
func whole[T any](parse func([]byte) (T, []byte, error)) func([]byte) (T, error) {
	return func(b []byte) (T, error) {
		v, _, err := parse(b)
		return v, err
	}
}

func FuzzInodeItem(f *testing.F) {
	codec[InodeItem]{parse: ParseInodeItem, app: (*InodeItem).Append}.fuzz(f, KeyInodeItem)
}

func FuzzInodeRef(f *testing.F) {
	app := func(r *InodeRef, b []byte) []byte { return r.Append(b) }
	codec[InodeRef]{parse: whole(ParseInodeRef), app: app, exact: true}.fuzz(f, KeyInodeRef)
}

func FuzzInodeExtref(f *testing.F) {
	app := func(r *InodeExtref, b []byte) []byte { return r.Append(b) }
	codec[InodeExtref]{parse: whole(ParseInodeExtref), app: app, exact: true}.fuzz(f, KeyInodeExtref)
}

func FuzzDirItem(f *testing.F) {
	codec[DirItem]{parse: whole(ParseDirItem), app: (*DirItem).Append, exact: true}.fuzz(f, KeyDirItem, KeyDirIndex, KeyXattrItem)
}

func FuzzDirLog(f *testing.F) {
	codec[uint64]{parse: ParseDirLog}.fuzz(f, KeyDirLogIndex)
}

func FuzzVerityDesc(f *testing.F) {
	f.Add(make([]byte, 25))
	codec[uint64]{parse: func(b []byte) (uint64, error) {
		size, _, err := ParseVerityDesc(b)
		return size, err
	}}.fuzz(f)
}

func FuzzFileExtent(f *testing.F) {
	codec[FileExtent]{parse: ParseFileExtent, app: (*FileExtent).Append, exact: true}.fuzz(f, KeyExtentData)
}

func FuzzExtentItem(f *testing.F) {
	app := func(e *ExtentItem, b []byte) []byte { return e.Append(b) }
	codec[ExtentItem]{parse: ParseExtentItem, app: app, exact: true}.fuzz(f, KeyExtentItem, KeyMetadataItem)
}

func FuzzTreeBlockInfo(f *testing.F) {
	app := func(i *TreeBlockInfo, b []byte) []byte { return i.Append(b) }
	seed(f, []KeyType{KeyExtentItem}, func(_ Key, data []byte) { f.Add(data[extentItemSize:]) })
	f.Fuzz(codec[TreeBlockInfo]{parse: ParseTreeBlockInfo, app: app, exact: true}.check)
}

func FuzzInlineRef(f *testing.F) {
	parse := func(b []byte) (ExtentRef, error) {
		r, size, err := ParseInlineRef(b)
		if err == nil && (size <= 0 || size > len(b) || size != InlineRefSize(r.Type)) {
			return r, errors.New("size out of range")
		}
		return r, err
	}
	seed(f, []KeyType{KeyExtentItem, KeyMetadataItem}, func(k Key, data []byte) {
		if rest, err := InlineRefs(k, data); err == nil {
			f.Add(rest)
		}
	})
	f.Fuzz(codec[ExtentRef]{parse: parse, app: (*ExtentRef).AppendInline, exact: true}.check)
}

func FuzzInlineRefs(f *testing.F) {
	seed(f, []KeyType{KeyExtentItem, KeyMetadataItem}, func(k Key, data []byte) { f.Add(uint8(k.Type), data) })
	f.Fuzz(func(t *testing.T, typ uint8, b []byte) {
		rest, err := InlineRefs(Key{Type: KeyType(typ)}, b)
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Fatal(err)
		}
		if !bytes.HasSuffix(b, rest) {
			t.Fatal("the references are not the end of the item")
		}
	})
}

func FuzzKeyedRef(f *testing.F) {
	types := []KeyType{KeyTreeBlockRef, KeySharedBlockRef, KeySharedDataRef, KeyExtentDataRef}
	seed(f, types, func(k Key, data []byte) { f.Add(uint8(k.Type), k.Offset, data) })
	for _, typ := range types {
		f.Add(uint8(typ), uint64(4096), []byte{})
	}
	f.Fuzz(func(t *testing.T, typ uint8, off uint64, b []byte) {
		k := Key{ObjectID: 1, Type: KeyType(typ), Offset: off}
		codec[ExtentRef]{
			parse: func(b []byte) (ExtentRef, error) { return ParseKeyedRef(k, b) },
			app:   (*ExtentRef).AppendKeyed, exact: true,
		}.check(t, b)
	})
}

func FuzzRootItem(f *testing.F) {
	codec[RootItem]{parse: ParseRootItem, app: (*RootItem).Append}.fuzz(f, KeyRootItem)
}

func FuzzRootRef(f *testing.F) {
	codec[RootRef]{parse: ParseRootRef, app: (*RootRef).Append, exact: true}.fuzz(f, KeyRootRef, KeyRootBackref)
}

func FuzzUUIDItem(f *testing.F) {
	codec[[]ObjectID]{parse: ParseUUIDItem, size: func(v *[]ObjectID) int { return 8 * len(*v) }}.fuzz(f, KeyUUIDSubvol)
}

func FuzzQgroupStatus(f *testing.F) {
	f.Add(make([]byte, 32))
	codec[QgroupStatus]{parse: ParseQgroupStatus, app: (*QgroupStatus).Append}.fuzz(f, KeyQgroupStatus)
}

func FuzzQgroupInfo(f *testing.F) {
	codec[QgroupInfo]{parse: ParseQgroupInfo, app: (*QgroupInfo).Append, exact: true}.fuzz(f, KeyQgroupInfo)
}

func FuzzQgroupLimit(f *testing.F) {
	codec[QgroupLimit]{parse: ParseQgroupLimit, app: (*QgroupLimit).Append, exact: true}.fuzz(f, KeyQgroupLimit)
}

func FuzzDevItem(f *testing.F) {
	codec[DevItem]{parse: ParseDevItem, app: (*DevItem).Append, exact: true}.fuzz(f, KeyDevItem)
}

func FuzzChunk(f *testing.F) {
	c := codec[Chunk]{parse: ParseChunk, app: (*Chunk).Append, exact: true, size: func(c *Chunk) int { return 32 * len(c.Stripes) }}
	seed(f, []KeyType{KeyChunkItem}, func(_ Key, data []byte) { f.Add(uint64(1<<30), data) })
	f.Fuzz(func(t *testing.T, at uint64, b []byte) {
		c.check(t, b)
		// The two ways to validate a chunk agree, and a valid one can be used.
		chunk, err := ParseChunk(b)
		if err != nil {
			return
		}
		m := ChunkMapping{Logical(at), chunk}
		bad := m.Validate(testGeometry)
		if len(b) <= 3000 {
			leaf := buildLeaf(TreeChunk, testItem{Key{FirstChunkTree, KeyChunkItem, at}, b})
			if inLeaf := CheckLeaf(leaf, testGeometry); (bad == nil) != (inLeaf == nil) {
				t.Fatalf("Validate says %v, CheckLeaf %v", bad, inLeaf)
			}
		}
		if bad == nil && (m.StripeLength() == 0 || m.StripeLength() > m.Length || m.End() < m.Logical) {
			t.Fatalf("valid chunk of %d bytes has stripes of %d", m.Length, m.StripeLength())
		}
	})
}

func FuzzDevExtent(f *testing.F) {
	codec[DevExtent]{parse: ParseDevExtent, app: (*DevExtent).Append, exact: true}.fuzz(f, KeyDevExtent)
}

func FuzzBlockGroupItem(f *testing.F) {
	codec[BlockGroupItem]{parse: ParseBlockGroupItem, app: (*BlockGroupItem).Append, exact: true}.fuzz(f, KeyBlockGroupItem)
}

func FuzzFreeSpaceInfo(f *testing.F) {
	app := func(i *FreeSpaceInfo, b []byte) []byte { return i.Append(b) }
	codec[FreeSpaceInfo]{parse: ParseFreeSpaceInfo, app: app, exact: true}.fuzz(f, KeyFreeSpaceInfo)
}

func FuzzFreeSpaceHeader(f *testing.F) {
	f.Add(make([]byte, 41))
	codec[FreeSpaceHeader]{parse: ParseFreeSpaceHeader}.fuzz(f)
}

func FuzzRaidStripe(f *testing.F) {
	f.Add(make([]byte, 48))
	codec[[]RaidStride]{parse: ParseRaidStripe, size: func(v *[]RaidStride) int { return 16 * len(*v) }}.fuzz(f)
}

func FuzzDevStats(f *testing.F) {
	codec[DevStats]{parse: ParseDevStats, app: (*DevStats).Append}.fuzz(f, KeyPersistentItem)
}

func FuzzDevReplaceItem(f *testing.F) {
	f.Add(make([]byte, 72))
	codec[DevReplaceItem]{parse: ParseDevReplaceItem}.fuzz(f)
}

func FuzzKey(f *testing.F) {
	f.Add(make([]byte, KeySize), make([]byte, KeySize))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if len(a) < KeySize || len(b) < KeySize {
			return
		}
		k, l := ParseKey(a), ParseKey(b)
		if !bytes.Equal(k.Append(nil), a[:KeySize]) {
			t.Fatalf("%x came back as %v", a, k)
		}
		if k.Compare(l) != -l.Compare(k) || (k.Compare(l) == 0) != (k == l) || k.Less(l) != (k.Compare(l) < 0) {
			t.Fatalf("%v and %v are not ordered", k, l)
		}
		if k != MaxKey && (!k.Less(k.Next()) || k.Less(l) && l.Less(k.Next())) {
			t.Fatalf("%v is not next to %v", k.Next(), k)
		}
		_ = KeyText(k)
	})
}

func FuzzSuperblock(f *testing.F) {
	for _, m := range corpus(f) {
		f.Add(m.raw)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSuperblock(b)
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("error %v does not wrap ErrFormat", err)
			}
			return
		}
		if err := DumpSuper(io.Discard, s); err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(); err != nil && !errors.Is(err, ErrFormat) {
			t.Fatalf("error %v does not wrap ErrFormat", err)
		}
		if len(s.Label) == LabelSize {
			return // without a zero at its end; Encode refuses that
		}
		out, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseSuperblock(out)
		if err != nil {
			t.Fatal(err)
		}
		s.raw, again.raw = nil, nil
		if !reflect.DeepEqual(s, again) {
			t.Fatalf("%+v\ncame back as\n%+v", s, again)
		}
	})
}

// FuzzNode walks whole nodes: the validators against everything that uses nodes
// afterwards.
func FuzzNode(f *testing.F) {
	images := corpus(f)
	for i, m := range images {
		for _, n := range m.nodes {
			if m.g.NodeSize == 4096 {
				f.Add(uint8(i), []byte(n))
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		g := images[int(which)%len(images)].g
		g.NodeSize = len(b)
		n := Node(b)
		if err := DumpNode(io.Discard, n, g); err != nil {
			t.Fatal(err)
		}
		check := CheckLeaf
		if len(n) >= HeaderSize && !n.IsLeaf() {
			check = CheckNode
		}
		if err := check(n, g); err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("error %v does not wrap ErrFormat", err)
			}
			return
		}
		for i := range n.NrItems() {
			if slot, found := n.Search(n.Key(i)); slot != i || !found {
				t.Fatalf("key %v of slot %d is found in slot %d", n.Key(i), i, slot)
			}
			// What passes as an item decodes.
			fields, err := SlotFields(n, i, g)
			if err != nil {
				t.Fatalf("slot %d, key %v passes but does not decode: %v", i, n.Key(i), err)
			}
			if _, err := json.Marshal(fields); err != nil {
				t.Fatal(err)
			}
		}
		if n.IsLeaf() && n.LeafFree() < 0 {
			t.Fatalf("%d bytes free", n.LeafFree())
		}
	})
}
