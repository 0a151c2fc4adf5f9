package disk

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Fixed-size items of any other size are refused, lists of names when they are
// cut anywhere but between two names.
func TestDecodersRefuseOtherSizes(t *testing.T) {
	err1 := func(_ any, err error) error { return err }
	for name, d := range map[string]struct {
		parse func(b []byte) error
		good  []int
	}{
		"inode item":        {func(b []byte) error { return err1(ParseInodeItem(b)) }, []int{160}},
		"dir log":           {func(b []byte) error { return err1(ParseDirLog(b)) }, []int{8}},
		"root item":         {func(b []byte) error { return err1(ParseRootItem(b)) }, []int{239, 439}},
		"qgroup status":     {func(b []byte) error { return err1(ParseQgroupStatus(b)) }, []int{32, 40}},
		"qgroup info":       {func(b []byte) error { return err1(ParseQgroupInfo(b)) }, []int{40}},
		"qgroup limit":      {func(b []byte) error { return err1(ParseQgroupLimit(b)) }, []int{40}},
		"dev item":          {func(b []byte) error { return err1(ParseDevItem(b)) }, []int{98}},
		"dev extent":        {func(b []byte) error { return err1(ParseDevExtent(b)) }, []int{48}},
		"block group":       {func(b []byte) error { return err1(ParseBlockGroupItem(b)) }, []int{24}},
		"free space info":   {func(b []byte) error { return err1(ParseFreeSpaceInfo(b)) }, []int{8}},
		"free space header": {func(b []byte) error { return err1(ParseFreeSpaceHeader(b)) }, []int{41}},
		"chunk":             {func(b []byte) error { return err1(ParseChunk(b)) }, []int{48}},
		"root ref":          {func(b []byte) error { return err1(ParseRootRef(b)) }, []int{18}},
		"verity descriptor": {func(b []byte) error { _, _, err := ParseVerityDesc(b); return err }, []int{25}},
		"tree reference":    {func(b []byte) error { return err1(ParseKeyedRef(Key{1, KeyTreeBlockRef, 5}, b)) }, []int{0}},
		"shared data ref":   {func(b []byte) error { return err1(ParseKeyedRef(Key{1, KeySharedDataRef, 5}, b)) }, []int{4}},
		"data reference":    {func(b []byte) error { return err1(ParseKeyedRef(Key{1, KeyExtentDataRef, 5}, b)) }, []int{28}},
		"no reference":      {func(b []byte) error { return err1(ParseKeyedRef(Key{1, KeyInodeItem, 5}, b)) }, nil},
		"superblock":        {func(b []byte) error { return err1(ParseSuperblock(b)) }, nil},
	} {
		for n := range 500 {
			err := d.parse(make([]byte, n))
			if slices.Contains(d.good, n) {
				if err != nil {
					t.Errorf("%s of %d bytes: %v", name, n, err)
				}
			} else if !errors.Is(err, ErrFormat) {
				t.Errorf("%s of %d bytes: error %v", name, n, err)
			}
		}
	}
	names := dirItem("one", nil)
	for n := range len(names) {
		if _, _, err := ParseDirItem(names[:n]); !errors.Is(err, ErrFormat) {
			t.Errorf("directory item cut to %d bytes: error %v", n, err)
		}
	}
}

func TestSuperblockOfOthers(t *testing.T) {
	m := corpus(t)[0]
	for want, change := range map[string]func(b []byte){
		"no btrfs superblock magic":                        func(b []byte) { b[64] = 'x' },
		"unfinished mkfs or conversion":                    func(b []byte) { b[64] = '!' },
		"system chunk array of 2049 bytes, want at most 2": func(b []byte) { le.PutUint32(b[160:], 2049) },
	} {
		b := slices.Clone(m.raw)
		change(b)
		if _, err := ParseSuperblock(b); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if HasMagic(m.raw[:100]) || !HasMagic(m.raw) || IsUnfinished(m.raw) {
		t.Error("the magic is seen wrongly")
	}
	s := m.super.Clone()
	s.Label = strings.Repeat("l", LabelSize)
	if _, err := s.Encode(); err == nil {
		t.Error("a label without room for its zero is encoded")
	}
	s.Label, s.SysChunkArray = "", make([]byte, SystemArrayMax+1)
	if _, err := s.Encode(); err == nil {
		t.Error("a system chunk array that does not fit is encoded")
	}
	for mirror, want := range []uint64{64 << 10, 64 << 20, 256 << 30} {
		if got := SuperOffset(mirror); got != want {
			t.Errorf("superblock %d at %d, want %d", mirror, got, want)
		}
	}
}

func TestUUID(t *testing.T) {
	const text = "01020304-0506-0708-090a-0b0c0d0e0f10"
	u, err := ParseUUID(text)
	if err != nil || u.String() != text || u.IsZero() || !(UUID{}).IsZero() {
		t.Errorf("%v, error %v", u, err)
	}
	if b, err := json.Marshal(u); err != nil || string(b) != `"`+text+`"` {
		t.Errorf("%s, error %v", b, err)
	}
	if k := UUIDKey(u, KeyUUIDSubvol); k != (Key{0x0807060504030201, KeyUUIDSubvol, 0x100f0e0d0c0b0a09}) {
		t.Errorf("key %v", k)
	}
	for _, bad := range []string{"", text[:35], text + "0", strings.Replace(text, "-", "0", 1), strings.Replace(text, "a", "g", 1)} {
		if u, err := ParseUUID(bad); err == nil {
			t.Errorf("%q is %v", bad, u)
		}
	}
}

func TestKeyNext(t *testing.T) {
	for _, tc := range []struct{ k, want Key }{
		{Key{1, 2, 3}, Key{1, 2, 4}},
		{Key{1, 2, 1<<64 - 1}, Key{1, 3, 0}},
		{Key{1, 255, 1<<64 - 1}, Key{2, 0, 0}},
		{MaxKey, MaxKey},
	} {
		if got := tc.k.Next(); got != tc.want {
			t.Errorf("%v is followed by %v, want %v", tc.k, got, tc.want)
		}
	}
	b := make([]byte, KeySize)
	Key{1, 2, 3}.Put(b)
	if ParseKey(b) != (Key{1, 2, 3}) {
		t.Errorf("%x", b)
	}
}

func TestObjectIDs(t *testing.T) {
	for id, want := range map[ObjectID][2]bool{
		TreeFS: {true, true}, 256: {true, true}, 1 << 40: {true, true}, TreeRoot: {}, TreeExtent: {}, 255: {},
		TreeDataReloc: {false, true}, TreeLog: {false, true}, TreeReloc: {},
	} {
		if got := [2]bool{id.IsSubvolume(), id.IsFile()}; got != want {
			t.Errorf("%v: subvolume, file: %v, want %v", id, got, want)
		}
	}
}

func TestDeviceNumbers(t *testing.T) {
	for _, n := range [][2]uint32{{0, 0}, {8, 1}, {259, 70000}, {4095, 1<<20 - 1}} {
		if major, minor := SplitRdev(JoinRdev(n[0], n[1])); major != n[0] || minor != n[1] {
			t.Errorf("%v came back as %d:%d", n, major, minor)
		}
	}
	found := false
	for _, it := range corpusItems(t) {
		if it.key.Type == KeyInodeItem {
			i, err := ParseInodeItem(it.data)
			if major, minor := SplitRdev(i.Rdev); err == nil && i.Mode>>12 == 6 {
				found = true
				if major != 259 || minor != 70000 {
					t.Errorf("the block device of testdata is %d:%d, want 259:70000", major, minor)
				}
			}
		}
	}
	if !found {
		t.Error("no block device in testdata")
	}
}

func TestProfiles(t *testing.T) {
	for i := range Profiles {
		p := &Profiles[i]
		if got, ok := ParseProfile(strings.ToLower(p.Name)); !ok || got != p || ProfileOf(BlockGroupData|p.Flag) != p {
			t.Errorf("%s is not found", p.Name)
		}
	}
	if _, ok := ParseProfile("raid7"); ok {
		t.Error("raid7 is found")
	}
	for _, tc := range []struct {
		flags   BlockGroupFlags
		stripes int
		length  uint64
		want    uint64 // length on each device
	}{
		{BlockGroupData, 1, 1 << 30, 1 << 30}, {BlockGroupData | BlockGroupDUP, 2, 1 << 30, 1 << 30},
		{BlockGroupData | BlockGroupRAID0, 3, 3 << 20, 1 << 20}, {BlockGroupData | BlockGroupRAID1C3, 3, 1 << 30, 1 << 30},
		{BlockGroupData | BlockGroupRAID10, 6, 3 << 20, 1 << 20}, {BlockGroupData | BlockGroupRAID5, 4, 3 << 20, 1 << 20},
		{BlockGroupData | BlockGroupRAID6, 5, 3 << 20, 1 << 20}, {BlockGroupData | BlockGroupRAID6, 2, 3 << 20, 0},
	} {
		c := Chunk{Type: tc.flags, Length: tc.length, Stripes: make([]Stripe, tc.stripes)}
		if got := c.StripeLength(); got != tc.want {
			t.Errorf("%v of %d stripes: %d on each device, want %d", tc.flags, tc.stripes, got, tc.want)
		}
	}
	if s := (BlockGroupData | BlockGroupRAID1C3).String(); s != "DATA|RAID1C3" {
		t.Errorf("%q", s)
	}
}

func TestHoles(t *testing.T) {
	for _, tc := range []struct {
		e    FileExtent
		want bool
	}{
		{FileExtent{Type: FileExtentRegular}, true}, {FileExtent{Type: FileExtentRegular, DiskBytenr: 4096}, false},
		{FileExtent{Type: FileExtentInline}, false},
	} {
		if got := tc.e.IsHole(); got != tc.want {
			t.Errorf("%+v: %v", tc.e, got)
		}
	}
}

// Search and ChildSlot against a plain scan, on nodes that Linux wrote.
func TestSearch(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, m := range corpus(t) {
		for _, n := range m.nodes {
			for range 50 {
				k := n.Key(r.IntN(n.NrItems()))
				switch r.IntN(4) {
				case 0:
					k.Offset++
				case 1:
					k.Offset--
				case 2:
					k.Type++
				}
				want, found := 0, false
				for want < n.NrItems() && n.Key(want).Less(k) {
					want++
				}
				found = want < n.NrItems() && n.Key(want) == k
				if slot, ok := n.Search(k); slot != want || ok != found {
					t.Fatalf("%v: slot %d, found %v, want %d, %v", k, slot, ok, want, found)
				}
				child := want
				if !found && child > 0 {
					child--
				}
				if got := n.ChildSlot(k); got != child {
					t.Fatalf("%v: child %d, want %d", k, got, child)
				}
			}
		}
	}
}

func TestEmptyLeafIsFree(t *testing.T) {
	n := buildLeaf(300)
	if got := n.LeafFree(); got != 4096-HeaderSize {
		t.Errorf("%d bytes free", got)
	}
	if f := NodeFields(n); f.Get("free_space") != 4096-HeaderSize || f.Get("owner") != TreeID(300) || f.Get("level") != 0 {
		t.Errorf("fields %v", f)
	}
	n.SetLevel(1)
	if f := NodeFields(n); f.Get("free_space") != nil {
		t.Errorf("fields %v", f)
	}
}

func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		CsumCRC32C.String(): "crc32c", CsumXXHash.String(): "xxhash64", CsumSHA256.String(): "sha256", CsumBLAKE2b.String(): "blake2",
		CsumType(9).String(): "csum-9", CompressNone.String(): "none", CompressZlib.String(): "zlib", CompressLZO.String(): "lzo",
		CompressZstd.String(): "zstd", Compression(7).String(): "compression-7", FileTypeName(FtDir): "DIR", FileTypeName(200): "DIR_ITEM.200",
		FileTypeName(FtDir | FtEncrypted): "DIR|ENCRYPTED", FileExtentType(9).String(): "type-9", KeyType(70).String(): "UNKNOWN.70",
		QgroupID(2<<48 | 9): "2/9", ObjectID(300).String(): "300", TreeDataReloc.String(): "DATA_RELOC_TREE",
		Text("plain").String(): "plain", Hex{1}.String(): "01", Flags{5, extentFlagNames}.String(): "0x5(DATA|0x4)",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
