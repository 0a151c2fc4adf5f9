package extract_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gobtrfs"
	"gobtrfs/extract"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
)

const mib = 1 << 20

// populated is the image of a filesystem with one of everything, and the
// manifest of what cp -a made of it on another filesystem.
func populated(t *testing.T, args ...string) (image string, want []manifest.Entry) {
	t.Helper()
	oracle.Need(t, oracle.Mounting...)
	image = oracle.Mkfs(t, 512*mib)
	m := oracle.Mount(t, strings.Join(append([]string{"noatime"}, args...), ","), image)
	oracle.Populate(t, m.Dir, 16384)
	m.Sync()
	copied := filepath.Join(oracle.Dir(t), "cp")
	oracle.Run(t, "cp", "-a", m.Dir, copied)
	m.Unmount()
	return image, comparable(oracle.HostManifest(t, copied, oracle.HostOptions{}))
}

// comparable leaves out what is not to be compared: tmpfs counts links of
// directories, and sets stubs' times when they are made.
func comparable(entries []manifest.Entry) []manifest.Entry {
	for i := range entries {
		e := &entries[i]
		if e.Type == 'd' {
			e.Has &^= manifest.Nlink | manifest.Size
		}
		e.Has &^= manifest.Ctime | manifest.Btime | manifest.Ino | manifest.Flags
		if e.Path == "snapshot/nested" || e.Path == "snapshot-ro/nested" {
			e.Has &^= manifest.Mtime | manifest.Mode
		}
	}
	return entries
}

func open(t *testing.T, image string) *btrfs.File {
	t.Helper()
	f, err := btrfs.Open(t.Context(), image, btrfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	sub, err := f.Default(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	root, err := sub.Root(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// What we copy out is what cp -a copies out of a kernel mount, holes included.
func TestToDirEqualsCpFromAMount(t *testing.T) {
	t.Parallel()
	for _, options := range []string{"compress=no", "compress-force=zstd"} {
		t.Run(options, func(t *testing.T) {
			t.Parallel()
			image, want := populated(t, options)
			dest := filepath.Join(oracle.Dir(t), "out")
			r, err := extract.ToDir(t.Context(), open(t, image), "", dest, extract.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if r.DamagedCount+r.UnkeptCount != 0 {
				t.Errorf("damaged %v, not kept %v", r.Damaged, r.Unkept)
			}
			oracle.RequireSame(t, want, comparable(oracle.HostManifest(t, dest, oracle.HostOptions{})), manifest.All)
			data := oracle.DataRanges(t, filepath.Join(dest, "layouts/holes"))
			if len(data) != 4 {
				t.Errorf("data of the sparse file at %v, want four ranges", data)
			}
			if st, err := os.Stat(filepath.Join(dest, "layouts/only-hole")); err != nil || st.Size() != 40*mib+1 {
				t.Errorf("file that is a hole: %v, %v", st, err)
			}
		})
	}
}

// A tar of ours, unpacked by tar(1), is the tree.
func TestToTarUnpacksToTheSameTree(t *testing.T) {
	t.Parallel()
	image, want := populated(t)
	dest := oracle.Dir(t)
	cmd := exec.Command("tar", "-x", "-p", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", dest)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var messages bytes.Buffer
	cmd.Stderr = &messages
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r, err := extract.ToTar(t.Context(), open(t, image), "", in, extract.Options{})
	if err := errors.Join(err, in.Close()); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("tar: %v\n%s", err, &messages)
	}
	if r.UnkeptCount != 1 || r.Unkept[0].Path != "special/socket" {
		t.Errorf("not kept: %v", r.Unkept)
	}
	want = slices.DeleteFunc(want, func(e manifest.Entry) bool { return e.Path == "special/socket" })
	got := comparable(oracle.HostManifest(t, dest, oracle.HostOptions{}))
	// tar(1) cannot set xattrs of a link.
	for _, list := range [][]manifest.Entry{want, got} {
		for i := range list {
			if list[i].Type == 'l' {
				list[i].Xattrs = nil
				list[i].Has &^= manifest.Xattrs
			}
		}
	}
	oracle.RequireSame(t, want, got, manifest.All)
}

func TestExistingFilesAreNotOverwritten(t *testing.T) {
	t.Parallel()
	image, _ := populated(t)
	dest := oracle.Dir(t)
	mine := filepath.Join(dest, "contents")
	if err := os.WriteFile(mine, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := extract.ToDir(t.Context(), open(t, image), "", dest, extract.Options{}); !errors.Is(err, os.ErrExist) {
		t.Errorf("error %v, want one that says the file exists", err)
	}
	if b, err := os.ReadFile(mine); err != nil || string(b) != "mine" {
		t.Errorf("the file now holds %q, %v", b, err)
	}
}

func TestASingleFileGoesWhereItIsTold(t *testing.T) {
	t.Parallel()
	image, _ := populated(t)
	root := open(t, image)
	f, err := root.Subvolume().Open(t.Context(), "contents/text-5000")
	if err != nil {
		t.Fatal(err)
	}
	dest := oracle.Dir(t)
	for _, to := range []string{dest, filepath.Join(dest, "renamed")} {
		if _, err := extract.ToDir(t.Context(), f, "text-5000", to, extract.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"text-5000", "renamed"} {
		if b, err := os.ReadFile(filepath.Join(dest, name)); err != nil || !bytes.Equal(b, oracle.Text(5000, 5000)) {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
}

// damaged is an image whose file "bad" has one bad sector in the middle, and
// whose data has one copy only.
func damaged(t *testing.T) (image string, content []byte) {
	t.Helper()
	oracle.Need(t, oracle.Mounting...)
	image = oracle.Mkfs(t, 256*mib)
	m := oracle.Mount(t, "noatime", image)
	content = oracle.Noise(3, 100_000)
	for _, name := range []string{"bad", "good"} {
		c := content
		if name == "good" {
			c = oracle.Text(4, 50_000)
		}
		if err := os.WriteFile(filepath.Join(m.Dir, name), c, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m.Unmount()
	raw, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(raw, content[40_960:40_960+64])
	if at < 0 {
		t.Fatal("contents not found in the image")
	}
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{^raw[at]}, int64(at)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return image, content
}

func TestDamageStopsTheCopy(t *testing.T) {
	t.Parallel()
	image, _ := damaged(t)
	r, err := extract.ToDir(t.Context(), open(t, image), "", filepath.Join(oracle.Dir(t), "out"), extract.Options{})
	if !errors.Is(err, btrfs.ErrCorrupt) || r.DamagedCount != 1 {
		t.Errorf("error %v, %d damaged", err, r.DamagedCount)
	}
}

func TestKeepGoingSavesWhatCanBeRead(t *testing.T) {
	t.Parallel()
	image, content := damaged(t)
	dest := filepath.Join(oracle.Dir(t), "out")
	r, err := extract.ToDir(t.Context(), open(t, image), "", dest, extract.Options{KeepGoing: true})
	if err != nil || r.DamagedCount != 1 || r.Damaged[0].Path != "bad" {
		t.Errorf("error %v, damaged %v", err, r.Damaged)
	}
	want := slices.Clone(content)
	clear(want[40_960 : 40_960+4096])
	checkSaved(t, want, func(name string) ([]byte, error) { return os.ReadFile(filepath.Join(dest, name)) })

	var stream bytes.Buffer
	r, err = extract.ToTar(t.Context(), open(t, image), "", &stream, extract.Options{KeepGoing: true})
	if err != nil || r.DamagedCount != 1 || r.Damaged[0].Path != "bad" {
		t.Errorf("tar: error %v, damaged %v", err, r.Damaged)
	}
	files := map[string][]byte{}
	for tr := tar.NewReader(&stream); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
	checkSaved(t, want, func(name string) ([]byte, error) { return files[name], nil })
}

func checkSaved(t *testing.T, bad []byte, read func(string) ([]byte, error)) {
	t.Helper()
	if b, err := read("bad"); err != nil || !bytes.Equal(b, bad) {
		t.Errorf("the damaged file: %v, equal outside of the bad sector: %v", err, bytes.Equal(b, bad))
	}
	if b, err := read("good"); err != nil || !bytes.Equal(b, oracle.Text(4, 50_000)) {
		t.Errorf("the good file: %v", err)
	}
}

func TestCancellingEndsTheCopy(t *testing.T) {
	t.Parallel()
	image, _ := populated(t)
	root := open(t, image)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := extract.ToDir(ctx, root, "", filepath.Join(oracle.Dir(t), "out"), extract.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
