package disk

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// handmade are items that testdata does not have.
func handmade() []testItem {
	balance := make([]byte, balanceItemSize)
	le.PutUint64(balance, 1)
	le.PutUint64(balance[8:], uint64(BlockGroupRAID1))
	le.PutUint64(balance[8+64:], 1<<0|1<<8)
	header := Key{300, KeyInodeItem, 0}.Append(nil)
	header = le.AppendUint64(le.AppendUint64(le.AppendUint64(header, 7), 12), 3)
	return []testItem{
		{Key{BalanceObjectID, KeyTemporaryItem, 0}, balance},
		{Key{0, KeyDevReplace, 0}, le.AppendUint64(make([]byte, 32, 72), 3)},
		{Key{0, KeyDevReplace, 0}, append(le.AppendUint64(make([]byte, 32, 72), 3), make([]byte, 32)...)},
		{Key{FreeSpaceObjectID, 0, 1 << 20}, header},
		{Key{257, KeyVerityDesc, 0}, append([]byte{0, 1}, make([]byte, 23)...)},
		{Key{257, KeyVerityDesc, 1}, []byte{1, 2, 3}},
		{Key{1 << 20, KeyRaidStripe, 65536}, append(le.AppendUint64(nil, 1), le.AppendUint64(nil, 4096)...)},
		{Key{300, KeyStringItem, 0}, []byte("a string")},
		{Key{1 << 20, KeyTreeBlockRef, 5}, nil},
		{Key{1 << 20, KeySharedBlockRef, 1 << 21}, nil},
		{Key{256, KeyDirItem, 1}, dirItem("caf\xe9 \"\\\n", nil)},
		{Key{300, 70, 5}, []byte{0xde, 0xad}},
		{Key{257, KeyInodeItem, 0}, []byte{1}},
		{Key{257, KeyInodeRef, 256}, append(InodeRef{2, []byte("good")}.Append(nil), 9)},
		{Key{1 << 20, KeyExtentItem, 4096}, append(extentItem(1, ExtentFlagData, nil, dataRef(257, 1)), 7)},
		{Key{1 << 20, KeyExtentItem, 4096}, extentItem(1, ExtentFlagTreeBlock, nil)},
		{Key{257, KeyInodeItem, 0}, apply(goodInode(), put64(64, 0x80000009|1<<32|1<<40), put64(112, 1<<63))},
	}
}

// TestDumpGolden dumps a few items of each type, of which testdata/dump.golden
// has the expected form. Keys, offsets and sizes of a whole filesystem were
// compared with `btrfs inspect-internal dump-tree` 6.2 when it was made.
func TestDumpGolden(t *testing.T) {
	var b bytes.Buffer
	images := corpus(t)
	type kind struct {
		typ  KeyType
		kind string
	}
	seen := map[kind]int{}
	for i := range images {
		m := &images[i]
		for _, n := range m.nodes {
			if !n.IsLeaf() {
				continue
			}
			for slot := range n.NrItems() {
				k := kind{typ: n.Key(slot).Type}
				if k.typ == KeyChunkItem || k.typ == KeyExtentItem || k.typ == KeyExtentData {
					k.kind = fmt.Sprint(n.ItemSize(slot))
				}
				if seen[k]++; seen[k] <= 2 {
					if err := DumpItem(&b, n, slot, m.g); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	for _, it := range handmade() {
		if err := DumpItem(&b, buildLeaf(TreeFS, it), 0, testGeometry); err != nil {
			t.Fatal(err)
		}
	}
	if err := DumpSuper(&b, images[0].super); err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/dump.golden"
	if *update {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	gotLines, wantLines := strings.Split(b.String(), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(gotLines), len(wantLines)) {
		if gotLines[i] != wantLines[i] {
			t.Fatalf("line %d is\n%s\nwant\n%s", i+1, gotLines[i], wantLines[i])
		}
	}
	if len(gotLines) != len(wantLines) {
		t.Errorf("%d lines, want %d", len(gotLines), len(wantLines))
	}
}

// Every item that Linux wrote has fields, no type falls through to a hex dump,
// and the JSON form is JSON with each field once.
func TestFieldsOfKernelItems(t *testing.T) {
	for _, m := range corpus(t) {
		for _, n := range m.nodes {
			for slot := range n.NrItems() {
				f, err := SlotFields(n, slot, m.g)
				if err != nil {
					t.Fatal(err)
				}
				b, err := json.Marshal(f)
				if err != nil {
					t.Fatal(err)
				}
				var back map[string]any
				if err := json.Unmarshal(b, &back); err != nil || len(back) != len(f) {
					t.Fatalf("%s: %v, %d of %d fields", b, err, len(back), len(f))
				}
				if !n.IsLeaf() {
					continue
				}
				item := f.Get("item").(Fields)
				if item.Get("data") != nil || len(item) == 0 && n.ItemSize(slot) != 0 {
					t.Errorf("%v: fields %v", n.Key(slot), item)
				}
			}
		}
	}
}

func TestFieldsJSON(t *testing.T) {
	f := Fields{
		{"n", uint64(1<<64 - 1)}, {"key", Key{256, KeyDirItem, 5}}, {"flags", Flags{9, extentFlagNames}}, {"none", Flags{0, nil}},
		{"tree", TreeID(TreeFS)}, {"name", Text("a\"\\\xff\n")}, {"hex", Hex{1, 0xab}}, {"time", Time{-1, 5}}, {"uuid", UUID{1}},
		{"list", []Fields{{{"a", 1}}, {}}}, {"empty", []Fields{}}, {"sub", Fields{{"b", "c"}}},
	}
	want := `{"n":18446744073709551615,"key":{"objectid":256,"type":"DIR_ITEM","offset":5},` +
		`"flags":{"value":9,"names":["DATA","0x8"]},"none":{"value":0,"names":[]},"tree":5,"name":"a\"\\\\\\xff\\n","hex":"01ab",` +
		`"time":{"sec":-1,"nsec":5},"uuid":"01000000-0000-0000-0000-000000000000","list":[{"a":1},{}],"empty":[],"sub":{"b":"c"}}`
	b, err := json.Marshal(f)
	if err != nil || string(b) != want {
		t.Errorf("error %v,\n%s, want\n%s", err, b, want)
	}
	if f.Get("nothing") != nil || f.Get("n") != uint64(1<<64-1) {
		t.Error("Get finds the wrong field")
	}
}

func TestDumpNodeThatIsInvalid(t *testing.T) {
	n := buildLeaf(TreeFS, testItem{Key{257, KeyInodeItem, 0}, goodInode()})
	n.SetNrItems(9999)
	for _, tc := range []struct {
		n    Node
		want string
	}{{n, "error: invalid on-disk format: leaf with 9999 items"}, {n[:50], "error: node of 50 bytes"}} {
		var b strings.Builder
		if err := DumpNode(&b, tc.n, testGeometry); err != nil || !strings.Contains(b.String(), tc.want) {
			t.Errorf("error %v, dump %q", err, b.String())
		}
	}
}

func TestKeyText(t *testing.T) {
	for want, k := range map[string]Key{
		"(ROOT_TREE_DIR INODE_ITEM 0)":         {6, KeyInodeItem, 0},
		"(DEV_STATS PERSISTENT_ITEM 1)":        {0, KeyPersistentItem, 1},
		"(BALANCE TEMPORARY_ITEM 0)":           {BalanceObjectID, KeyTemporaryItem, 0},
		"(FREE_SPACE UNTYPED 1048576)":         {FreeSpaceObjectID, 0, 1 << 20},
		"(TREE_LOG ROOT_ITEM FS_TREE)":         {TreeLog, KeyRootItem, 5},
		"(0/300 QGROUP_RELATION 1/7)":          {300, KeyQgroupRelation, 1<<48 | 7},
		"(5 EXTENT_ITEM 4096)":                 {5, KeyExtentItem, 4096},
		"(5 TREE_BLOCK_REF EXTENT_TREE)":       {5, KeyTreeBlockRef, 2},
		"(300 ROOT_BACKREF FS_TREE)":           {300, KeyRootBackref, 5},
		"(CHUNK_TREE ROOT_ITEM 0)":             {3, KeyRootItem, 0},
		"(FIRST_CHUNK_TREE CHUNK_ITEM 1)":      {256, KeyChunkItem, 1},
		"(0x2a UUID_KEY_SUBVOL 0x2b)":          {42, KeyUUIDSubvol, 43},
		"(EXTENT_CSUM EXTENT_CSUM 4096)":       {ExtentCsumObjectID, KeyExtentCsum, 4096},
		"(256 DIR_INDEX 18446744073709551615)": {256, KeyDirIndex, 1<<64 - 1},
	} {
		if got := KeyText(k); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
