package volume

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/oracle"
)

// overlay keeps writes in memory, so that tests can change an image without
// touching its file. It is not safe for concurrent writes.
type overlay struct {
	blockdev.Device
	name  string
	size  int64
	pages map[int64][]byte
}

const overlayPage = 4096

func over(d blockdev.Device) *overlay {
	return &overlay{Device: d, name: d.Name(), size: d.Size(), pages: map[int64][]byte{}}
}

func (o *overlay) Name() string { return o.name }
func (o *overlay) Size() int64  { return o.size }
func (o *overlay) Sync() error  { return nil }

func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	n, err := o.Device.ReadAt(p, off)
	for i := off / overlayPage; i*overlayPage < off+int64(n); i++ {
		if page := o.pages[i]; page != nil {
			from := max(i*overlayPage, off)
			copy(p[from-off:n], page[from-i*overlayPage:])
		}
	}
	return n, err
}

func (o *overlay) WriteAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		i := (off + int64(done)) / overlayPage
		if o.pages[i] == nil {
			page := make([]byte, overlayPage)
			if n, err := o.Device.ReadAt(page, i*overlayPage); n < len(page) {
				return done, err
			}
			o.pages[i] = page
		}
		done += copy(o.pages[i][off+int64(done)-i*overlayPage:], p[done:])
	}
	return done, nil
}

// editSuper changes one copy of a superblock and gives it a right checksum.
func editSuper(t *testing.T, d blockdev.Device, mirror int, edit func(*disk.Superblock)) {
	t.Helper()
	sb, err := readSuperCopy(d, disk.SuperOffset(mirror))
	if err != nil {
		t.Fatal(err)
	}
	edit(sb)
	b, err := sb.Encode()
	if err != nil {
		t.Fatal(err)
	}
	sum := csum.Sum(sb.CsumType, b[disk.CsumSize:])
	copy(b, sum[:])
	if _, err := d.WriteAt(b, int64(disk.SuperOffset(mirror))); err != nil {
		t.Fatal(err)
	}
}

func editSupers(t *testing.T, d blockdev.Device, edit func(*disk.Superblock)) {
	t.Helper()
	for m := range len(ReadSuperCopies(d)) {
		editSuper(t, d, m, edit)
	}
}

// requireNotice wants exactly one notice of the kind, and returns it.
func requireNotice(t *testing.T, v *Volume, k NoticeKind, words ...string) {
	t.Helper()
	n := 0
	for _, got := range v.Notices() {
		if got.Kind != k {
			continue
		}
		n++
		for _, w := range words {
			if !strings.Contains(got.String(), w) {
				t.Errorf("notice %q does not say %q", got, w)
			}
		}
	}
	if n != 1 {
		t.Errorf("%d notices of kind %d among %v, want 1", n, k, v.Notices())
	}
}

func TestSuperblockCopies(t *testing.T) {
	base := openFiles(t, oracle.Mkfs(t, 192<<20))[0]
	gen := mustOpen(t, []blockdev.Device{base}, Options{}).Super().Generation

	t.Run("all the same", func(t *testing.T) {
		if n := mustOpen(t, []blockdev.Device{base}, Options{}).Notices(); len(n) != 0 {
			t.Errorf("notices: %v", n)
		}
	})
	t.Run("copy 0 is damaged", func(t *testing.T) {
		d := over(base)
		if _, err := d.WriteAt([]byte{0xff}, disk.SuperInfoOffset+700); err != nil {
			t.Fatal(err)
		}
		v := mustOpen(t, []blockdev.Device{d}, Options{})
		requireNotice(t, v, NoticeSuperCopies, "copy 0", "checksum mismatch")
		if len(v.ReadOnly()) == 0 {
			t.Error("may be written by a superblock that the kernel does not see")
		}
		if v.Super().Bytenr != disk.SuperOffset(1) {
			t.Errorf("used the copy at %d", v.Super().Bytenr)
		}
	})
	t.Run("copy 0 is gone", func(t *testing.T) {
		d := over(base)
		if _, err := d.WriteAt(make([]byte, 4096), disk.SuperInfoOffset); err != nil {
			t.Fatal(err)
		}
		requireNotice(t, mustOpen(t, []blockdev.Device{d}, Options{}), NoticeSuperCopies, "copy 0", "no btrfs superblock")
	})
	t.Run("copy 1 is older", func(t *testing.T) {
		d := over(base)
		editSuper(t, d, 1, func(s *disk.Superblock) { s.Generation-- })
		v := mustOpen(t, []blockdev.Device{d}, Options{})
		requireNotice(t, v, NoticeSuperCopies, "copy 1", fmt.Sprint("generation ", gen-1))
		if v.Super().Generation != gen {
			t.Errorf("generation %d, want %d", v.Super().Generation, gen)
		}
	})
	t.Run("copy 1 is newer", func(t *testing.T) {
		d := over(base)
		editSuper(t, d, 1, func(s *disk.Superblock) { s.Generation++ })
		v := mustOpen(t, []blockdev.Device{d}, Options{})
		requireNotice(t, v, NoticeSuperCopies, "copy 0")
		if v.Super().Generation != gen+1 {
			t.Errorf("generation %d, want %d", v.Super().Generation, gen+1)
		}
	})
	t.Run("copy 1 is of an earlier filesystem", func(t *testing.T) {
		d := over(base)
		editSuper(t, d, 1, func(s *disk.Superblock) {
			s.Generation += 1000
			s.FSID[0] ^= 1
			s.DevItem.FSID = s.FSID
		})
		v := mustOpen(t, []blockdev.Device{d}, Options{})
		requireNotice(t, v, NoticeSuperCopies, "copy 1")
		if v.Super().Generation != gen {
			t.Errorf("generation %d, want %d", v.Super().Generation, gen)
		}
	})
	t.Run("one copy on request", func(t *testing.T) {
		d := over(base)
		editSuper(t, d, 1, func(s *disk.Superblock) { s.Label = "one" })
		v := mustOpen(t, []blockdev.Device{d}, Options{SuperMirror: 1})
		if v.Super().Label != "one" {
			t.Errorf("label %q", v.Super().Label)
		}
		if _, err := Open(t.Context(), []blockdev.Device{d}, Options{SuperMirror: 2}); !errors.Is(err, ErrNotBtrfs) {
			t.Errorf("copy 2 of a small device: %v", err)
		}
	})
	t.Run("unfinished mkfs", func(t *testing.T) {
		d := over(base)
		if _, err := d.WriteAt([]byte("!"), disk.SuperInfoOffset+64); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), []blockdev.Device{d}, Options{}); !errors.Is(err, errUnfinished) {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("a copy in the place of another", func(t *testing.T) {
		d := over(base)
		b := make([]byte, 4096)
		if _, err := d.ReadAt(b, disk.SuperInfoOffset); err != nil {
			t.Fatal(err)
		}
		if _, err := d.WriteAt(b, int64(disk.SuperOffset(1))); err != nil {
			t.Fatal(err)
		}
		requireNotice(t, mustOpen(t, []blockdev.Device{d}, Options{}), NoticeSuperCopies, "copy 1", "stands at 65536")
	})
}

func TestFeatureGate(t *testing.T) {
	base := openFiles(t, oracle.Mkfs(t, 128<<20))[0]
	for _, c := range []struct {
		name string
		edit func(*disk.Superblock)
		// want
		refused  string // the feature's name, "" if it opens
		readOnly string
	}{
		{"today's defaults", func(*disk.Superblock) {}, "", ""},
		{"zoned", func(s *disk.Superblock) { s.IncompatFlags |= disk.IncompatZoned }, "zoned", ""},
		{"extent-tree-v2", func(s *disk.Superblock) { s.IncompatFlags |= disk.IncompatExtentTreeV2 }, "extent-tree-v2", ""},
		{"remap-tree", func(s *disk.Superblock) { s.IncompatFlags |= disk.IncompatRemapTree }, "remap-tree", ""},
		{"fscrypt", func(s *disk.Superblock) { s.IncompatFlags |= 1 << 15 }, "fscrypt", ""},
		{"unknown incompat", func(s *disk.Superblock) { s.IncompatFlags |= 1 << 40 }, "unknown incompat bit 40", ""},
		{"unknown compat_ro", func(s *disk.Superblock) { s.CompatROFlags |= 1 << 33 }, "", "unknown compat_ro bit 33"},
		{"seed", func(s *disk.Superblock) { s.Flags |= disk.SuperFlagSeeding }, "", "seed"},
		{"half-changed fsid of all nodes", func(s *disk.Superblock) { s.Flags |= disk.SuperFlagChangingFSID }, "unfinished fsid change", ""},
		{"half-converted to block-group-tree", func(s *disk.Superblock) { s.Flags |= disk.SuperFlagChangingBGT }, "block-group-tree", ""},
		{"unknown checksum", func(s *disk.Superblock) { s.CsumType = 9 }, "checksum type", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := over(base)
			editSupers(t, d, c.edit)
			v, err := Open(t.Context(), []blockdev.Device{d}, Options{})
			if c.refused != "" {
				var u *UnsupportedError
				if !errors.As(err, &u) || !strings.Contains(u.Feature, c.refused) {
					t.Fatalf("err = %v, want the feature %q", err, c.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(v.ReadOnly(), ", "); !strings.Contains(got, c.readOnly) || c.readOnly == "" && got != "" {
				t.Errorf("read-only because of %q, want %q", got, c.readOnly)
			}
			if err := v.Write(t.Context(), v.Super().Root, nil); (err != nil) != (c.readOnly != "") {
				t.Errorf("write: %v", err)
			}
		})
	}
}

func TestForeignAndDuplicateMembers(t *testing.T) {
	images := oracle.MkfsN(t, 2, 192<<20, "-d", "raid1", "-m", "raid1")
	other := oracle.Mkfs(t, 128<<20)
	devs := openFiles(t, images...)
	foreign := openFiles(t, other)[0]
	newer := over(devs[1])
	newer.name = "newer"
	editSupers(t, newer, func(s *disk.Superblock) { s.Generation++ })
	for _, c := range []struct {
		name  string
		devs  []blockdev.Device
		kind  NoticeKind
		words []string
		used  []string // names of the members in order of id
	}{
		{"foreign", []blockdev.Device{devs[0], foreign, devs[1]}, NoticeForeign, []string{other, "belongs to filesystem " + oracle.FSID(t, other)}, images},
		{"given twice", []blockdev.Device{devs[0], devs[1], over(devs[1])}, NoticeDuplicate, []string{"same member"}, images},
		{"older copy first", []blockdev.Device{devs[0], devs[1], newer}, NoticeDuplicate, []string{"used is newer"}, []string{images[0], "newer"}},
		{"newer copy first", []blockdev.Device{devs[0], newer, devs[1]}, NoticeDuplicate, []string{"used is newer"}, []string{images[0], "newer"}},
		{"placeholder", []blockdev.Device{devs[0], blockdev.NewMemory(0).Named("empty"), devs[1]}, NoticePlaceholder, []string{"empty"}, images},
		{"no superblock", []blockdev.Device{devs[0], blockdev.NewMemory(1 << 20).Named("blank"), devs[1]}, NoticePlaceholder, []string{"blank", "no btrfs superblock"}, images},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := mustOpen(t, c.devs, Options{})
			requireNotice(t, v, c.kind, c.words...)
			var used []string
			for _, d := range v.Devices() {
				used = append(used, d.Name)
			}
			if !slices.Equal(used, c.used) {
				t.Errorf("members %v, want %v", used, c.used)
			}
		})
	}
	t.Run("nothing at all", func(t *testing.T) {
		if _, err := Open(t.Context(), nil, Options{}); !errors.Is(err, ErrNotBtrfs) {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("truncated", func(t *testing.T) {
		d := over(devs[1])
		d.size = 100 << 20
		v := mustOpen(t, []blockdev.Device{devs[0], d}, Options{})
		requireNotice(t, v, NoticeTruncated, "104857600 bytes")
	})
	t.Run("a device replaced meanwhile", func(t *testing.T) {
		d := over(devs[1])
		editSupers(t, d, func(s *disk.Superblock) { s.DevItem.UUID[3] ^= 1 })
		v := mustOpen(t, []blockdev.Device{devs[0], d}, Options{Degraded: true})
		requireNotice(t, v, NoticeForeign, "was device 2")
		requireNotice(t, v, NoticeMissing)
	})
}

// A member that missed writes is recognised by its generation, and what it has
// is not taken for good where another copy exists, not even without checksums.
func TestStaleMember(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	for _, c := range []struct {
		profile string
		devices int
	}{{"raid1", 2}, {"raid10", 4}, {"raid5", 3}, {"raid6", 4}} {
		t.Run(c.profile, func(t *testing.T) {
			images := oracle.MkfsN(t, c.devices, 512<<20, "-d", c.profile, "-m", "raid1")
			write := func(m *oracle.Mounted, seed byte) map[string][]byte {
				files := map[string][]byte{"nocow": bytes.Repeat([]byte{seed, 1}, 3<<20), "cow": bytes.Repeat([]byte{seed, 2}, 2<<20)}
				for name, b := range files {
					path := filepath.Join(m.Dir, name)
					f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
					if err != nil {
						t.Fatal(err)
					}
					if name == "nocow" && seed == 1 {
						oracle.Run(t, "chattr", "+C", path)
					}
					if _, err := f.WriteAt(b, 0); err != nil {
						t.Fatal(err)
					}
					if err := f.Close(); err != nil {
						t.Fatal(err)
					}
				}
				return files
			}
			m := oracle.Mount(t, "", images...)
			write(m, 1)
			m.Unmount()
			m = oracle.Mount(t, "degraded", images[:c.devices-1]...)
			m.AllowLog("missing|degraded|unable to find|error writing", "the set was mounted degraded on purpose")
			files := write(m, 2)
			m.Unmount()

			v := mustOpen(t, openFiles(t, images...), Options{})
			requireNotice(t, v, NoticeStale, images[c.devices-1])
			if d := v.Devices()[c.devices-1]; !d.Stale {
				t.Errorf("device %+v is not stale", d)
			}
			requireFiles(t, v, files)
			if _, err := readAll(t.Context(), v); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func attachLoop(t *testing.T, image string) string {
	t.Helper()
	loop := strings.TrimSpace(oracle.Run(t, "losetup", "--find", "--show", image))
	t.Cleanup(func() {
		_ = exec.Command("btrfs", "device", "scan", "--forget", loop).Run() // fails where it was never scanned
		oracle.Run(t, "losetup", "--detach", loop)
	})
	return loop
}

func TestSeedAndSprout(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	images, files := kernelImage(t, 1, 384<<20)
	seed := images[0]
	oracle.Run(t, "btrfstune", "-S", "1", seed)
	dir := filepath.Dir(seed)
	sprout := filepath.Join(dir, "sprout.img")
	oracle.Run(t, "truncate", "-s", "384M", sprout)
	m := oracle.Mount(t, "", seed)
	oracle.Run(t, "btrfs", "device", "add", "-f", attachLoop(t, sprout), m.Dir)
	oracle.Run(t, "mount", "-o", "remount,rw", m.Dir)
	files["new"] = bytes.Repeat([]byte("on the sprout"), 100_000)
	files["new"] = files["new"][:len(files["new"])/4096*4096]
	if err := os.WriteFile(filepath.Join(m.Dir, "new"), files["new"], 0o644); err != nil {
		t.Fatal(err)
	}
	m.Unmount()

	devs := openFiles(t, sprout, seed)
	v := mustOpen(t, devs, Options{})
	info := v.Devices()
	if len(info) != 2 || !info[0].Seed || info[1].Seed || info[0].Stale || len(v.ReadOnly()) != 0 {
		t.Errorf("devices %+v, read-only %v", info, v.ReadOnly())
	}
	requireFiles(t, v, files)
	img, err := readAll(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	fsids := map[disk.UUID]bool{}
	for _, n := range img.nodes {
		fsids[disk.Node(n).FSID()] = true
	}
	if len(fsids) != 2 {
		t.Errorf("nodes of %d filesystems, want the seed's and the sprout's", len(fsids))
	}

	t.Run("the seed alone", func(t *testing.T) {
		delete(files, "new")
		v := mustOpen(t, devs[1:], Options{})
		requireFiles(t, v, files)
		if len(v.ReadOnly()) == 0 {
			t.Error("a seed may be written")
		}
	})
	t.Run("the sprout alone", func(t *testing.T) {
		if _, err := Open(t.Context(), devs[:1], Options{}); !errors.Is(err, ErrMissingDevice) {
			t.Errorf("err = %v", err)
		}
	})
	t.Run("found by scanning", func(t *testing.T) {
		found, err := Scan(t.Context(), dir)
		if err != nil || len(found) != 2 {
			t.Fatalf("found %v, %v", found, err)
		}
		for _, c := range []struct {
			first blockdev.Device
			want  []string
		}{{devs[0], []string{seed}}, {devs[1], nil}} {
			got, err := Members(t.Context(), c.first, found)
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("members with %s: %v, %v, want %v", c.first.Name(), got, err, c.want)
			}
		}
	})
}

func TestScanFindsMembers(t *testing.T) {
	images := oracle.MkfsN(t, 3, 192<<20, "-d", "raid0", "-m", "raid1")
	dir := filepath.Dir(images[0])
	for name, b := range map[string]string{"short": "x", "blank.img": strings.Repeat("\x00", 1<<20)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(b), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	oracle.Run(t, "mkfifo", filepath.Join(dir, "fifo")) // opening it would block
	found, err := Scan(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Members(t.Context(), openFiles(t, images[1])[0], found)
	if err != nil || !slices.Equal(got, []string{images[0], images[2]}) {
		t.Errorf("members %v, %v", got, err)
	}
}

// After devices were added and removed the numbers have gaps, chunks of several
// profiles stand side by side, and the removed device is no member.
func TestDevicesAddedAndRemoved(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	images, files := kernelImage(t, 2, 384<<20, "-d", "raid1", "-m", "raid1")
	removed := oracle.Copy(t, images[1])
	added := filepath.Join(filepath.Dir(images[0]), "added.img")
	oracle.Run(t, "truncate", "-s", "512M", added)
	m := oracle.Mount(t, "", images...)
	oracle.Run(t, "btrfs", "device", "add", "-f", attachLoop(t, added), m.Dir)
	oracle.Run(t, "btrfs", "device", "remove", m.Loops[1], m.Dir)
	oracle.Run(t, "btrfs", "balance", "start", "-dconvert=raid0", "-mconvert=raid1", "--force", m.Dir)
	m.Unmount()
	v := mustOpen(t, openFiles(t, images[0], removed, images[1], added), Options{})
	requireNotice(t, v, NoticeForeign, removed, "device 2 is no longer part")
	requireNotice(t, v, NoticePlaceholder, images[1], "no btrfs superblock")
	if d := v.Devices(); len(d) != 2 || d[0].ID != 1 || d[1].ID != 3 || d[1].Name != added {
		t.Errorf("devices %+v", d)
	}
	requireFiles(t, v, files)
	img, err := readAll(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	requireMirrors(t, v, img)
}

// btrfstune -m gives every member a new fsid in two steps. Whatever member was
// reached when it stopped, they belong together.
func TestMetadataUUID(t *testing.T) {
	images := oracle.MkfsN(t, 2, 192<<20, "-d", "raid1", "-m", "raid1")
	plain := openFiles(t, images...)
	changed := func(i int, fsid byte, flag bool, gen disk.TransID) blockdev.Device {
		d := over(plain[i])
		editSupers(t, d, func(s *disk.Superblock) {
			if fsid != 0 {
				s.MetadataUUID = s.FSID
				s.FSID[0] ^= fsid
				s.IncompatFlags |= disk.IncompatMetadataUUID
			}
			if flag {
				s.Flags |= disk.SuperFlagChangingFSID2
			}
			s.Generation += gen
		})
		return d
	}
	for _, c := range []struct {
		name string
		devs []blockdev.Device
		// want
		together bool
		notice   NoticeKind
	}{
		{"finished", []blockdev.Device{changed(0, 1, false, 0), changed(1, 1, false, 0)}, true, 0},
		{"one member flagged", []blockdev.Device{changed(0, 0, true, 1), changed(1, 0, false, 0)}, true, NoticeFSIDChange},
		{"one member done", []blockdev.Device{changed(0, 1, false, 2), changed(1, 0, true, 1)}, true, NoticeFSIDChange},
		{"second change, one member done", []blockdev.Device{changed(0, 1, false, 3), changed(1, 2, true, 2)}, true, NoticeFSIDChange},
		{"change back, one member done", []blockdev.Device{changed(0, 0, false, 3), changed(1, 2, true, 2)}, true, NoticeFSIDChange},
		{"a clone with another fsid", []blockdev.Device{changed(0, 1, false, 0), changed(1, 2, false, 0)}, false, NoticeForeign},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, err := Open(t.Context(), c.devs, Options{Degraded: true})
			if err != nil {
				t.Fatal(err)
			}
			missing := v.Devices()[1].Missing
			if missing == c.together {
				t.Errorf("second member missing: %v", missing)
			}
			if c.notice != 0 {
				requireNotice(t, v, c.notice)
			}
			if _, err := readAll(t.Context(), v); err != nil {
				t.Error(err)
			}
		})
	}
	// A newer clone of a member is no member: it has its ids, not its fsid.
	own, clone := changed(1, 0, false, 0), changed(1, 2, false, 9)
	for name, devs := range map[string][]blockdev.Device{"clone last": {plain[0], own, clone}, "clone before the member": {plain[0], clone, own}} {
		t.Run(name, func(t *testing.T) {
			v := mustOpen(t, devs, Options{})
			requireNotice(t, v, NoticeDuplicate)
			if v.Devices()[1].Device != own {
				t.Error("the clone is used")
			}
		})
	}
	t.Run("btrfstune", func(t *testing.T) {
		one := oracle.Mkfs(t, 128<<20)
		before := oracle.FSID(t, one)
		oracle.Run(t, "btrfstune", "-m", one)
		v := mustOpen(t, openFiles(t, one), Options{})
		if v.Super().FSID.String() == before || v.Super().NodeFSID().String() != before {
			t.Errorf("fsid %v, metadata_uuid %v, was %v", v.Super().FSID, v.Super().MetadataUUID, before)
		}
		if _, err := readAll(t.Context(), v); err != nil {
			t.Error(err)
		}
	})
}

func TestBackupRoot(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	image := oracle.Mkfs(t, 256<<20)
	m := oracle.Mount(t, "", image)
	for i := range 6 {
		if err := os.WriteFile(filepath.Join(m.Dir, fmt.Sprint("gen-", i)), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		m.Sync()
	}
	m.Unmount()
	devs := openFiles(t, image)
	current := mustOpen(t, devs, Options{}).Super()
	var last disk.TransID
	for n := 1; n <= disk.NumBackupRoots; n++ {
		v := mustOpen(t, devs, Options{BackupRoot: n})
		sb := v.Super()
		if n == 1 && sb.Root != current.Root || n > 1 && sb.Generation >= last {
			t.Errorf("backup %d: root %d, generation %d", n, sb.Root, sb.Generation)
		}
		last = sb.Generation
		if sb.LogRoot != 0 || len(v.ReadOnly()) == 0 {
			t.Errorf("backup %d: log at %d, read-only %v", n, sb.LogRoot, v.ReadOnly())
		}
		buf := make([]byte, sb.NodeSize)
		err := v.ReadNode(t.Context(), sb.Root, buf, nil)
		if n <= 2 && err != nil { // older roots may have been overwritten
			t.Errorf("backup %d: %v", n, err)
		}
		if err == nil && disk.Node(buf).Generation() != sb.Generation {
			t.Errorf("backup %d: root of generation %d, want %d", n, disk.Node(buf).Generation(), sb.Generation)
		}
	}
	if _, err := Open(t.Context(), devs, Options{BackupRoot: 5}); err == nil {
		t.Error("backup root 5 opens")
	}
}

// WriteSuper puts a copy on every member at every place, each with its own
// device item, and flushes between the first and the others.
func TestWriteSuper(t *testing.T) {
	images := oracle.MkfsN(t, 2, 192<<20, "-d", "raid1", "-m", "raid1", "--csum", "xxhash")
	var devs []blockdev.Device
	for _, d := range openFiles(t, images...) {
		devs = append(devs, over(d))
	}
	v := mustOpen(t, devs, Options{})
	sb := v.Super().Clone()
	sb.Generation++
	sb.Label = "written"
	if err := v.WriteSuper(t.Context(), sb, nil); err != nil {
		t.Fatal(err)
	}
	w := mustOpen(t, devs, Options{})
	if n := w.Notices(); len(n) != 0 {
		t.Errorf("notices: %v", n)
	}
	if w.Super().Label != "written" || w.Super().Generation != sb.Generation {
		t.Errorf("label %q, generation %d", w.Super().Label, w.Super().Generation)
	}
	ids := map[disk.DevID]bool{}
	for _, d := range devs {
		for _, c := range ReadSuperCopies(d) {
			if c.Err != nil || c.Super.Label != "written" {
				t.Errorf("%s copy %d: %v", d.Name(), c.Mirror, c.Err)
				continue
			}
			ids[c.Super.DevItem.DevID] = true
		}
	}
	if !maps.Equal(ids, map[disk.DevID]bool{1: true, 2: true}) {
		t.Errorf("device items of %v", ids)
	}
}

// lastCopyFails is a device that takes no writes from 64 MiB on.
type lastCopyFails struct{ blockdev.Device }

func (d lastCopyFails) WriteAt(p []byte, off int64) (int, error) {
	if off >= int64(disk.SuperOffset(1)) {
		return 0, errors.New("write protected")
	}
	return d.Device.WriteAt(p, off)
}

// As soon as copy 0 is durable the transaction is, whatever becomes of the
// other copies; a failure before leaves the old superblock in use.
func TestWriteSuperFails(t *testing.T) {
	base := over(openFiles(t, oracle.Mkfs(t, 192<<20))[0])
	v := mustOpen(t, []blockdev.Device{lastCopyFails{base}}, Options{})
	sb := v.Super().Clone()
	sb.Generation++
	var dev *DeviceError
	if err := v.WriteSuper(t.Context(), sb, nil); !errors.As(err, &dev) || dev.Off != disk.SuperOffset(1) {
		t.Errorf("err = %v, want the write of copy 1", err)
	}
	if v.Super() != sb {
		t.Error("copy 0 was written, but the old superblock is in use")
	}
	w := mustOpen(t, []blockdev.Device{refusing{base}}, Options{})
	old := w.Super()
	if err := w.WriteSuper(t.Context(), sb, nil); err == nil || w.Super() != old {
		t.Errorf("copy 0 could not be written: err = %v", err)
	}
}

// Where a superblock cannot be read the error that this leads to says so.
func TestUnreadableSuperblock(t *testing.T) {
	one := openFiles(t, oracle.Mkfs(t, 192<<20))[0]
	v := mustOpen(t, []blockdev.Device{&failing{one, 64 << 10, 68 << 10}}, Options{})
	if err := v.MayWrite(); !errors.Is(err, ErrReadOnly) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("copy 0 cannot be read: %v", err)
	}
	devs := openFiles(t, oracle.MkfsN(t, 2, 192<<20, "-d", "raid0", "-m", "raid0")...)
	_, err := Open(t.Context(), []blockdev.Device{devs[0], &failing{devs[1], 0, 192 << 20}}, Options{})
	if !errors.Is(err, ErrMissingDevice) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a device cannot be read: %v", err)
	}
}
