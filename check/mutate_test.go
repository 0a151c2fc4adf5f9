package check_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/oracle"
	"gobtrfs/internal/volume"
	"gobtrfs/mkfs"
)

// field is a number at a place in a structure.
type field struct {
	name  string
	off   int
	width int
}

func fields(spec string) []field {
	var out []field
	off := 0
	for _, f := range strings.Fields(spec) {
		name, w, _ := strings.Cut(f, ":")
		width, err := strconv.Atoi(w)
		if err != nil {
			panic(err)
		}
		if name != "-" {
			out = append(out, field{name, off, min(width, 8)})
		}
		off += width
	}
	return out
}

const inodeSpec = "generation:8 transid:8 size:8 nbytes:8 block_group:8 nlink:4 uid:4 gid:4 mode:4 rdev:8 flags:8 sequence:8 -:32 atime:8 atime.nsec:4 ctime:8 -:4 mtime:8 -:4 otime:8 -:4"

// itemFields are the fields of all item types of the format.
var itemFields = map[disk.KeyType][]field{
	disk.KeyInodeItem:       fields(inodeSpec),
	disk.KeyInodeRef:        fields("index:8 name_len:2 name:1"),
	disk.KeyInodeExtref:     fields("parent:8 index:8 name_len:2 name:1"),
	disk.KeyXattrItem:       fields("location.objectid:8 location.type:1 location.offset:8 transid:8 data_len:2 name_len:2 type:1 name:1"),
	disk.KeyDirItem:         fields("location.objectid:8 location.type:1 location.offset:8 transid:8 data_len:2 name_len:2 type:1 name:1"),
	disk.KeyDirIndex:        fields("location.objectid:8 location.type:1 location.offset:8 transid:8 data_len:2 name_len:2 type:1 name:1"),
	disk.KeyExtentData:      fields("generation:8 ram_bytes:8 compression:1 encryption:1 other_encoding:2 type:1 disk_bytenr:8 disk_num_bytes:8 offset:8 num_bytes:8"),
	disk.KeyExtentCsum:      fields("sum:4"),
	disk.KeyRootItem:        fields(inodeSpec + " generation:8 root_dirid:8 bytenr:8 byte_limit:8 bytes_used:8 last_snapshot:8 flags:8 refs:4 drop.objectid:8 drop.type:1 drop.offset:8 drop_level:1 level:1 generation_v2:8 uuid:16 parent_uuid:16 received_uuid:16 ctransid:8 otransid:8 stransid:8 rtransid:8"),
	disk.KeyRootRef:         fields("dirid:8 sequence:8 name_len:2 name:1"),
	disk.KeyRootBackref:     fields("dirid:8 sequence:8 name_len:2 name:1"),
	disk.KeyExtentItem:      fields("refs:8 generation:8 flags:8 inline.type:1 inline.1:8 inline.2:8 inline.3:8 inline.count:4"),
	disk.KeyMetadataItem:    fields("refs:8 generation:8 flags:8 inline.type:1 inline.root:8"),
	disk.KeyExtentDataRef:   fields("root:8 objectid:8 offset:8 count:4"),
	disk.KeySharedDataRef:   fields("count:4"),
	disk.KeyBlockGroupItem:  fields("used:8 chunk_objectid:8 flags:8"),
	disk.KeyFreeSpaceInfo:   fields("extent_count:4 flags:4"),
	disk.KeyFreeSpaceBitmap: fields("bits:1 -:9 bits:1"),
	disk.KeyDevExtent:       fields("chunk_tree:8 chunk_objectid:8 chunk_offset:8 length:8 uuid:16"),
	disk.KeyDevItem:         fields("devid:8 total_bytes:8 bytes_used:8 io_align:4 io_width:4 sector_size:4 type:8 generation:8 start_offset:8 dev_group:4 seek_speed:1 bandwidth:1 uuid:16 fsid:16"),
	disk.KeyChunkItem:       fields("length:8 owner:8 stripe_len:8 type:8 io_align:4 io_width:4 sector_size:4 num_stripes:2 sub_stripes:2 devid:8 offset:8 uuid:16"),
	disk.KeyQgroupStatus:    fields("version:8 generation:8 flags:8 rescan:8 enable_gen:8"),
	disk.KeyQgroupInfo:      fields("generation:8 rfer:8 rfer_cmpr:8 excl:8 excl_cmpr:8"),
	disk.KeyQgroupLimit:     fields("flags:8 max_rfer:8 max_excl:8 rsv_rfer:8 rsv_excl:8"),
	disk.KeyUUIDSubvol:      fields("root:8"),
	disk.KeyPersistentItem:  fields("write_errs:8 read_errs:8"),
	0:                       fields("location.objectid:8 location.type:1 location.offset:8 generation:8 entries:8 bitmaps:8"),
}

var headerFields = []field{
	{"fsid", 32, 8}, {"bytenr", 48, 8}, {"flags", 56, 8}, {"chunk_tree_uuid", 64, 8}, {"generation", 80, 8}, {"owner", 88, 8}, {"nritems", 96, 4}, {"level", 100, 1},
}

var superFields = fields("-:32 fsid:16 bytenr:8 flags:8 magic:8 generation:8 root:8 chunk_root:8 log_root:8 log_root_transid:8 total_bytes:8 bytes_used:8 root_dir_objectid:8 " +
	"num_devices:8 sectorsize:4 nodesize:4 leafsize:4 stripesize:4 sys_chunk_array_size:4 chunk_root_generation:8 compat_flags:8 compat_ro_flags:8 incompat_flags:8 csum_type:2 root_level:1 chunk_root_level:1 log_root_level:1 " +
	"dev.devid:8 dev.total_bytes:8 dev.bytes_used:8 dev.io_align:4 dev.io_width:4 dev.sector_size:4 dev.type:8 dev.generation:8 dev.start_offset:8 dev.group:4 dev.seek:1 dev.bandwidth:1 dev.uuid:16 dev.fsid:16 " +
	"-:256 cache_generation:8 uuid_tree_generation:8 metadata_uuid:16 -:224 -:0 array.objectid:8 array.type:1 array.offset:8 array.length:8 array.owner:8 array.stripe_len:8 array.type:8 -:12 array.num_stripes:2 array.sub_stripes:2 array.devid:8 array.offset:8")

// change is one way to change a number.
type change struct {
	name string
	f    func(v, max uint64) uint64
}

var changes = []change{
	{"+1", func(v, m uint64) uint64 { return (v + 1) & m }},
	{"-1", func(v, m uint64) uint64 { return (v - 1) & m }},
	{"0", func(v, m uint64) uint64 { return 0 }},
	{"max", func(v, m uint64) uint64 { return m }},
	{"+4096", func(v, m uint64) uint64 { return (v + 4096) & m }},
	{"+16384", func(v, m uint64) uint64 { return (v + 16384) & m }},
	{"^16", func(v, m uint64) uint64 { return v ^ 16 }},
	{"*2", func(v, m uint64) uint64 { return v * 2 & m }},
}

// mutant is one changed number.
type mutant struct {
	kind   string // tree, item type, field and change: what is counted
	addr   disk.Logical
	super  bool
	off    int // in the node
	width  int
	change change
}

// mutator changes one number of an image at a time and puts it back.
type mutator struct {
	t       testing.TB
	path    string
	dev     *blockdev.File
	vol     *volume.Volume
	mutants map[string][]mutant
	judges  []judge
	seen    map[disk.Logical]bool
}

func newMutator(t testing.TB, path string) *mutator {
	t.Helper()
	d, err := blockdev.OpenFile(path, blockdev.FileOptions{NoLock: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	v, err := volume.Open(context.Background(), []blockdev.Device{d}, volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m := &mutator{t: t, path: path, dev: d, vol: v, mutants: make(map[string][]mutant), seen: make(map[disk.Logical]bool)}
	for _, f := range superFields {
		m.add("super", f, 0, true, 0)
	}
	m.walk(v.Super().ChunkRoot, "chunk")
	m.walk(v.Super().Root, "root")
	return m
}

func (m *mutator) add(where string, f field, addr disk.Logical, super bool, base int) {
	for _, c := range changes {
		kind := where + "." + f.name + " " + c.name
		m.mutants[kind] = append(m.mutants[kind], mutant{kind, addr, super, base + f.off, f.width, c})
	}
}

// walk lists the mutants of a tree, and of the trees that it has the roots of.
func (m *mutator) walk(addr disk.Logical, tree string) {
	if m.seen[addr] {
		return
	}
	m.seen[addr] = true
	n := disk.Node(make([]byte, m.vol.Super().NodeSize))
	if err := m.vol.ReadNode(context.Background(), addr, n, nil); err != nil {
		m.t.Fatal(err)
	}
	for _, f := range headerFields {
		kind := tree + " leaf header"
		if !n.IsLeaf() {
			kind = tree + " node header"
		}
		m.add(kind, f, addr, false, 0)
	}
	key := []field{{"key.objectid", 0, 8}, {"key.type", 8, 1}, {"key.offset", 9, 8}}
	for i := range n.NrItems() {
		k := n.Key(i)
		if !n.IsLeaf() {
			base := disk.HeaderSize + i*disk.KeyPtrSize
			for _, f := range append(slices.Clone(key), field{"blockptr", 17, 8}, field{"generation", 25, 8}) {
				m.add(tree+" pointer", f, addr, false, base)
			}
			m.walk(n.BlockPtr(i), tree)
			continue
		}
		where := tree + " " + k.Type.String()
		base := disk.HeaderSize + i*disk.ItemHeaderSize
		for _, f := range append(slices.Clone(key), field{"item.offset", 17, 4}, field{"item.size", 21, 4}) {
			m.add(where, f, addr, false, base)
		}
		for _, f := range itemFields[k.Type] {
			if f.off+f.width <= n.ItemSize(i) {
				m.add(where, f, addr, false, disk.HeaderSize+n.ItemOffset(i))
			}
		}
		if k.Type == disk.KeyRootItem && tree == "root" {
			r, err := disk.ParseRootItem(n.ItemData(i))
			if err != nil {
				m.t.Fatal(err)
			}
			name := strings.ToLower(k.ObjectID.String())
			if k.ObjectID >= disk.FirstFreeObjectID && k.ObjectID < disk.LastFreeObjectID {
				name = "fs_tree"
			}
			m.walk(r.Bytenr, name)
		}
	}
}

// choose takes up to n mutants, evenly over the kinds, always the same ones for
// a seed.
func (m *mutator) choose(n int, seed uint64) []mutant {
	rng := rand.New(rand.NewPCG(seed, 1))
	var kinds []string
	for k := range m.mutants {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	for _, k := range kinds {
		l := m.mutants[k]
		rng.Shuffle(len(l), func(i, j int) { l[i], l[j] = l[j], l[i] })
	}
	rng.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	var out []mutant
	for round := 0; len(out) < n; round++ {
		before := len(out)
		for _, k := range kinds {
			if l := m.mutants[k]; round < len(l) && len(out) < n {
				out = append(out, l[round])
			}
		}
		if len(out) == before {
			break
		}
	}
	return out
}

// apply writes the mutant to every copy, checksums right, and returns how to
// take it back; nil if it changes nothing.
func (m *mutator) apply(x mutant) func() {
	size, places := int(m.vol.Super().NodeSize), []int64{disk.SuperInfoOffset}
	if x.super {
		size = disk.SuperInfoSize
	} else {
		at, err := m.vol.Map(x.addr, uint64(size))
		if err != nil {
			m.t.Fatal(err)
		}
		places = nil
		for _, p := range at {
			places = append(places, int64(p.Off))
		}
	}
	old := make([]byte, size)
	if _, err := m.dev.ReadAt(old, places[0]); err != nil {
		m.t.Fatal(err)
	}
	b := bytes.Clone(old)
	var v [8]byte
	copy(v[:], b[x.off:x.off+x.width])
	most := ^uint64(0) >> (64 - 8*x.width)
	binary.LittleEndian.PutUint64(v[:], x.change.f(binary.LittleEndian.Uint64(v[:]), most))
	copy(b[x.off:x.off+x.width], v[:x.width])
	if bytes.Equal(b, old) {
		return nil
	}
	sum := csum.Sum(m.vol.Super().CsumType, b[disk.CsumSize:])
	copy(b, sum[:])
	write := func(b []byte) {
		for _, p := range places {
			if _, err := m.dev.WriteAt(b, p); err != nil {
				m.t.Fatal(err)
			}
		}
	}
	write(b)
	return func() { write(old) }
}

// ours is what our check finds, notes left out.
func (m *mutator) ours() []string {
	start := time.Now()
	r := checkImages(m.t, check.Options{}, m.path)
	if d := time.Since(start); d > 5*time.Second {
		m.t.Errorf("took %v", d)
	}
	var out []string
	for i := range r.Findings {
		if f := &r.Findings[i]; f.Severity > check.Note && f.Code != check.CodeFreeSpaceStale {
			out = append(out, f.String())
		}
	}
	return out
}

// judge is one version of btrfs check in one mode.
type judge struct{ prog, mode string }

// judges are those to compare with that find nothing wrong with the image to
// begin with: old versions do not know new features.
func judges(t testing.TB, path string) []judge {
	t.Helper()
	list := []string{"btrfs"}
	if dir := os.Getenv("GOBTRFS_MORE_PROGS"); dir != "" {
		list = append(list, filepath.Join(dir, "btrfs"))
	}
	var out []judge
	for _, p := range list {
		for _, mode := range []string{"original", "lowmem"} {
			j := judge{p, mode}
			if why := j.find(path); why != "" {
				t.Logf("%s %s does not judge: %s", p, mode, why)
				continue
			}
			out = append(out, j)
		}
	}
	return out
}

// find is what the judge finds; "" is nothing.
func (j judge) find(path string) string {
	for range 5 {
		out, ok := j.run(path)
		// A mount that ends while the judge looks through all of them is none
		// of the image's business.
		switch {
		case ok:
			return ""
		case !bytes.Contains(out, []byte("could not check mount status")):
			return fmt.Sprintf("%s %s: %s", j.prog, j.mode, lastLines(out))
		}
	}
	return ""
}

// run says whether the judge has nothing to say: it found nothing, hung or
// crashed.
func (j judge) run(path string) (out []byte, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, j.prog, "check", "--readonly", "--mode="+j.mode, path).CombinedOutput()
	var exit *exec.ExitError
	return out, err == nil || ctx.Err() != nil || errors.As(err, &exit) && exit.ExitCode() < 0
}

func lastLines(out []byte) string {
	var keep []string
	for _, l := range strings.Split(string(out), "\n") {
		if l != "" && !strings.HasPrefix(l, "[") && !strings.Contains(l, "Checking filesystem") && !strings.HasPrefix(l, "UUID") && !strings.HasPrefix(l, "Opening") {
			keep = append(keep, l)
		}
	}
	return strings.Join(keep[:min(4, len(keep))], " | ")
}

// mutantSet is a filesystem whose mutants are judged.
type mutantSet struct {
	kernelCase
	ours   bool     // made by our mkfs, which has features that old tools do not
	before string   // shell, in the mounted filesystem
	trees  []string // only mutants of these trees; nil: all
	share  int      // of the number of mutants, in percent
	// known are kinds of mutants, by their beginnings, that must be found even
	// where no judge knows the features.
	known []string
}

var mutantSets = []mutantSet{
	{kernelCase: kernelCase{name: "defaults", mkfs: []string{"-m", "single", "-R", "quota"}}, share: 100},
	{kernelCase: kernelCase{name: "old", mkfs: []string{"-n", "4096", "-m", "single", "-O", "^no-holes,^skinny-metadata,^extref", "-R", "^free-space-tree"}}, share: 100},
	{kernelCase: kernelCase{name: "block group tree"}, ours: true, trees: []string{"block_group_tree"}, share: 30,
		known: []string{"block_group_tree BLOCK_GROUP_ITEM.used", "block_group_tree BLOCK_GROUP_ITEM.flags", "block_group_tree BLOCK_GROUP_ITEM.key"}},
	{kernelCase: kernelCase{name: "simple quotas"}, ours: true, trees: []string{"quota_tree", "extent_tree"}, share: 40,
		before: simpleQuotas, known: []string{"quota_tree QGROUP_INFO.rfer ", "quota_tree QGROUP_INFO.excl "}},
}

// simpleQuotas turns on simple quotas (BTRFS_IOC_QUOTA_CTL), which old tools
// cannot.
const simpleQuotas = `python3 -c "import fcntl, os, struct; fcntl.ioctl(os.open('.', os.O_RDONLY), 0xc0109428, struct.pack('QQ', 4, 0))"`

// TestMutantsAreFound changes one field of the format at a time. What btrfs
// check reports, ours must report too.
func TestMutantsAreFound(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	count := numberFrom(t, "GOBTRFS_MUTANTS", 60)
	seed := numberFrom(t, "GOBTRFS_SEED", 7)
	for _, k := range mutantSets {
		t.Run(k.name, func(t *testing.T) {
			img := k.image(t)
			m := newMutator(t, img)
			if o := m.ours(); len(o) > 0 {
				t.Fatalf("not clean to begin with: %v", o)
			}
			if m.judges = judges(t, img); len(m.judges) == 0 && len(k.known) == 0 {
				t.Fatal("no judge finds it clean to begin with")
			}
			m.keepTrees(k.trees)
			m.run(m.choose(int(count)*k.share/100, seed), k.known)
		})
	}
}

func numberFrom(t *testing.T, name string, n uint64) uint64 {
	t.Helper()
	if s := os.Getenv(name); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func (k *mutantSet) image(t *testing.T) string {
	t.Helper()
	var img string
	if k.ours {
		img = filepath.Join(t.TempDir(), "img")
		if _, err := mkfs.MakeFiles(t.Context(), []string{img}, 512*mib, mkfs.Options{Metadata: "single"}); err != nil {
			t.Fatal(err)
		}
	} else {
		img = k.make(t)[0]
	}
	mnt := oracle.Mount(t, "", img)
	mnt.AllowLog("space cache v1 is being deprecated", "the old form is what is wanted")
	if k.before != "" {
		mnt.AllowLog("qgroup rescan init failed", "simple quotas need no rescan")
		oracle.Run(t, "bash", "-e", "-c", "cd "+mnt.Dir+"\n"+k.before)
	}
	smallWorkload(t, mnt)
	mnt.Unmount()
	return img
}

// keepTrees leaves only mutants of certain trees.
func (m *mutator) keepTrees(trees []string) {
	for kind := range m.mutants {
		if !slices.ContainsFunc(trees, func(t string) bool { return strings.HasPrefix(kind, t+" ") }) && trees != nil {
			delete(m.mutants, kind)
		}
	}
}

func (m *mutator) theirs() string {
	for _, j := range m.judges {
		if s := j.find(m.path); s != "" {
			return s
		}
	}
	return ""
}

func (m *mutator) run(list []mutant, known []string) {
	ran, both, only := 0, 0, make(map[string]int)
	for _, x := range list {
		undo := m.apply(x)
		if undo == nil {
			continue
		}
		ran++
		o := m.ours()
		p := m.theirs()
		undo()
		switch {
		case p != "" && len(o) == 0:
			m.t.Errorf("missed: %s at %d+%d: %s", x.kind, x.addr, x.off, p)
		case p != "":
			both++
		case len(o) > 0:
			kind := x.kind[:strings.LastIndexByte(x.kind, ' ')]
			only[kind]++
		case slices.ContainsFunc(known, func(k string) bool { return strings.HasPrefix(x.kind, k) }):
			m.t.Errorf("missed: %s at %d+%d", x.kind, x.addr, x.off)
		}
	}
	m.t.Logf("%d mutants, %d found by both", ran, both)
	var kinds []string
	for k := range only {
		kinds = append(kinds, k)
	}
	slices.Sort(kinds)
	for _, k := range kinds {
		m.t.Logf("only ours: %s (%d)", k, only[k])
	}
}

// smallWorkload has every kind of item in few tree blocks.
func smallWorkload(t testing.TB, m *oracle.Mounted) {
	t.Helper()
	oracle.Run(t, "bash", "-e", "-c", "cd "+m.Dir+`
		mkdir a a/b; for i in $(seq 30); do echo $i > a/b/file$i; done; ln -s a/b link; mkfifo pipe; ln a/b/file1 a/hard; mknod dev c 1 3
		head -c 300000 /dev/urandom > data; cp --reflink=always data clone; head -c 8192 /dev/urandom | dd of=clone bs=4096 seek=10 conv=notrunc status=none
		setfattr -n user.x -v y data; fallocate -l 65536 pre; truncate -s 1M hole; touch nocow; chattr +C nocow; head -c 20000 data > nocow
		btrfs property set a compression zstd; head -c 100000 /dev/zero > a/zeros
		for i in $(seq 70); do ln data a/long-long-long-long-long-long-long-long-long-long-long-long-name-$i 2>/dev/null || break; done
		btrfs subvolume create sub; echo x > sub/x; btrfs subvolume snapshot . snap; btrfs subvolume snapshot -r snap snap/nested; sync
		echo y > snap/y; rm snap/data; for i in $(seq 0 2 60); do dd if=data of=frag bs=4096 count=1 seek=$i skip=$i conv=notrunc status=none; done; sync
		btrfs quota rescan -w . 2>/dev/null || true; btrfs balance start -m . > /dev/null; sync; touch a/after; rm a/hard; sync`)
}
