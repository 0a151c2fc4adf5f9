//go:build linux && !386 && !arm && !mips && !mipsle

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	btrfs "gobtrfs"
	"gobtrfs/internal/oracle"
)

// TestMount builds the program once for all tests of mounting: the server in
// the background is the program itself, started again.
func TestMount(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	bin := filepath.Join(dir, "gobtrfs")
	oracle.Run(t, "go", "build", "-o", bin, ".")
	// mount(8)'s name for its helper; and every user must get to the program.
	if err := errors.Join(os.Symlink("gobtrfs", filepath.Join(dir, "mount.fuse.gobtrfs")), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		test func(t *testing.T, bin string)
	}{
		{"errors", mountErrors},
		{"in the background, and umount", mountInTheBackgroundAndUmount},
		{"a subvolume", mountOfASubvolume},
		{"with devices missing", mountDegraded},
		{"rescue", mountToRescue},
		{"fusermount ends the server", fusermountEndsTheServer},
		{"signals unmount", signalsUnmount},
		{"in the foreground", mountInTheForeground},
		{"of a killed server", mountOfAKilledServer},
		{"other verbs go through the mount", verbsThroughTheMount},
		{"killed at any moment", killedAtAnyMoment},
		{"memory is bounded", memoryIsBounded},
		{"metrics and top", metricsAndTop},
		{"as an ordinary user", mountAsAnOrdinaryUser},
		{"by mount(8) and fstab", mountByMount8AndFstab},
		{"in two namespaces", mountInTwoNamespaces},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.test(t, bin)
		})
	}
}

// mountErrors: wrong use is exit code 2, and every message names the trouble.
func mountErrors(t *testing.T, bin string) {
	r := &rig{t: t, bin: bin}
	top := t.TempDir()
	file, dir := filepath.Join(top, "file"), filepath.Join(top, "dir")
	if err := errors.Join(os.WriteFile(file, []byte("not a filesystem"), 0o644), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	helper := filepath.Join(filepath.Dir(bin), "mount.fuse.gobtrfs")
	for _, tc := range []struct {
		bin  string
		args []string
		code int
		says string
	}{
		{bin, []string{"mount"}, 2, "arg"},
		{bin, []string{"mount", file}, 2, "arg"},
		{bin, []string{"mount", "-o", "nonsense", file, dir}, 2, `unknown mount option "nonsense"`},
		{bin, []string{"mount", "-o", "rescue=all", file, dir}, 2, "rescue knows nologreplay"},
		{bin, []string{"mount", "-o", "offset=5,partition=1", file, dir}, 2, "exclude each other"},
		{bin, []string{"umount"}, 2, "arg"},
		{bin, []string{"mount", file, filepath.Join(top, "nowhere")}, 1, "nowhere: no such file"},
		{bin, []string{"mount", file, file}, 1, "is not a directory"},
		{bin, []string{"mount", filepath.Join(top, "nowhere"), dir}, 1, "nowhere: no such file"},
		{bin, []string{"mount", file, dir}, 1, "no btrfs superblock"},
		{bin, []string{"mount", "-f", file, dir}, 1, "no btrfs superblock"},
		{bin, []string{"mount", "--log", filepath.Join(top, "no", "log"), file, dir}, 1, "open log"},
		{bin, []string{"mount", "-o", "remount,ro", file, dir}, 1, "nothing is mounted on " + dir},
		{bin, []string{"umount", dir}, 1, "nothing is mounted on " + dir},
		{bin, []string{"umount", "/proc"}, 1, "type proc, not of gobtrfs"},
		{helper, []string{filepath.Join(top, "nowhere"), dir, "-o", "ro"}, 32, "nowhere: no such file"},
		{helper, []string{file, dir, "-o", "rw"}, 32, "no btrfs superblock"},
		{helper, []string{file}, 32, "want a device and a directory"},
		{helper, []string{file, dir, "-o", "rw,nonsense", "-t", "fuse.gobtrfs"}, 32, "unknown mount option"},
		{helper, []string{file, dir, "-f", "-o", "ro"}, 0, ""},
	} {
		r.bin = tc.bin
		if out, code := r.run(tc.args...); code != tc.code || !strings.Contains(out, tc.says) {
			t.Errorf("%s %q exits with %d, want %d, and says:\n%s", filepath.Base(tc.bin), tc.args, code, tc.code, out)
		}
	}
}

// rig is an image and a place to mount it, usable by everybody.
type rig struct {
	t        *testing.T
	bin      string
	img, dir string
	log      string
	server   int // process id, once mounted
}

func needFUSE(t *testing.T) {
	t.Helper()
	oracle.Need(t, oracle.Mounting...)
	_, err := exec.LookPath("fusermount3")
	if err == nil {
		_, err = os.Stat("/dev/fuse")
	}
	if err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("CI must have FUSE: %v", err)
	}
	t.Skipf("needs FUSE: %v", err)
}

func newRig(t *testing.T, bin string) *rig { return newRigOf(t, bin, 256<<20) }

// newRigOf makes an image of size bytes.
func newRigOf(t *testing.T, bin string, size int64) *rig {
	t.Helper()
	needFUSE(t)
	r := &rig{t: t, bin: bin, img: oracle.Mkfs(t, size)}
	m := oracle.Mount(t, "", r.img)
	if err := os.WriteFile(m.Dir+"/file", []byte("contents\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "btrfs", "subvolume", "create", m.Dir+"/sub")
	if err := os.WriteFile(m.Dir+"/sub/inner", []byte("of the subvolume\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.Unmount()
	top := oracle.Dir(t)
	r.dir, r.log = filepath.Join(top, "mnt"), filepath.Join(top, "log")
	if err := errors.Join(os.Mkdir(r.dir, 0o755), os.Chmod(top, 0o755), os.Chmod(filepath.Dir(r.img), 0o755)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Whatever the test left: nothing is mounted any more, which is fine.
		exec.Command("fusermount3", "-u", "-z", r.dir).Run()
		if r.server != 0 && !r.gone(10*time.Second) {
			t.Errorf("the server %d is still there", r.server)
			unix.Kill(r.server, unix.SIGKILL)
		}
	})
	return r
}

// run runs gobtrfs and returns what it said and its exit code.
func (r *rig) run(args ...string) (string, int) {
	r.t.Helper()
	cmd := exec.Command(r.bin, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// mount mounts in the background and finds the server.
func (r *rig) mount(args ...string) string {
	r.t.Helper()
	out, code := r.run(append(append([]string{"mount", "--log", r.log}, args...), r.img, r.dir)...)
	if code != 0 {
		r.t.Fatalf("mount exits with %d: %s", code, out)
	}
	r.findServer()
	return out
}

func (r *rig) findServer() {
	r.t.Helper()
	m, err := findMount(r.dir)
	if err != nil {
		r.t.Fatal(err)
	}
	procs, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		r.t.Fatal(err)
	}
	for _, fd := range procs {
		proc := filepath.Dir(filepath.Dir(fd))
		if target, err := os.Readlink(fd); err == nil && target == "/dev/fuse" && servesMount(proc, filepath.Base(fd), m) {
			if r.server, err = strconv.Atoi(filepath.Base(proc)); err == nil {
				return
			}
		}
	}
	r.t.Fatalf("no process serves %s", r.dir)
}

func (r *rig) gone(within time.Duration) bool {
	for end := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		// The server is a child of nobody; as long as the one who reaps is slow
		// it is a zombie, and gone.
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.server))
		if err != nil || strings.Contains(string(b), ") Z ") {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

func (r *rig) mounted() bool {
	_, err := findMount(r.dir)
	return err == nil
}

func (r *rig) read(name, want string) {
	r.t.Helper()
	if b, err := os.ReadFile(filepath.Join(r.dir, name)); err != nil || string(b) != want {
		r.t.Errorf("%s has %q, %v, want %q", name, b, err, want)
	}
}

func mountInTheBackgroundAndUmount(t *testing.T, bin string) {
	r := newRig(t, bin)
	r.mount()
	r.read("file", "contents\n") // at once: mount returns when it is there
	r.read("sub/inner", "of the subvolume\n")
	var st unix.Statfs_t
	if err := unix.Statfs(r.dir, &st); err != nil || st.Flags&unix.ST_RDONLY != 0 || st.Flags&unix.ST_NOSUID == 0 {
		t.Errorf("statfs: %+v, %v", st, err)
	}
	f, err := os.Open(r.dir + "/file")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		opts string
		want error
	}{{"remount,ro", unix.EROFS}, {"remount,rw", nil}} {
		if out, code := r.run("mount", "-o", tc.opts, r.img, r.dir); code != 0 {
			t.Errorf("%s exits with %d: %s", tc.opts, code, out)
		}
		if err := os.WriteFile(r.dir+"/again", nil, 0o644); !errors.Is(err, tc.want) {
			t.Errorf("writing after %s: %v, want %v", tc.opts, err, tc.want)
		}
	}
	other := t.TempDir()
	if out, code := r.run("mount", r.img, other); code != 1 || !strings.Contains(out, "is mounted on "+r.dir) {
		t.Errorf("mounting twice exits with %d: %s", code, out)
	}
	if out, code := r.run("umount", r.dir); code != 1 || !strings.Contains(out, "in use") {
		t.Errorf("umount of a busy mount exits with %d: %s", code, out)
	}
	f.Close()
	if out, code := r.run("umount", r.dir); code != 0 {
		t.Errorf("umount exits with %d: %s", code, out)
	}
	if !r.gone(0) {
		t.Error("umount returned before the server was gone")
	}
	log, err := os.ReadFile(r.log)
	if err != nil || !bytes.Contains(log, []byte("msg=mounted")) || !bytes.Contains(log, []byte("msg=unmounted")) {
		t.Errorf("log %q, %v", log, err)
	}
}

func mountOfASubvolume(t *testing.T, bin string) {
	r := newRig(t, bin)
	if out := r.mount("-o", "ro,subvol=sub"); out != "" {
		t.Errorf("mount says %q", out)
	}
	r.read("inner", "of the subvolume\n")
	r.run("umount", r.dir)
	for opt, want := range map[string]string{
		"subvol=file":           "not a subvolume",
		"subvol=none":           "no such file",
		"subvolid=999":          "no such file",
		"subvol=sub,subvolid=5": "not 5",
	} {
		if out, code := r.run("mount", "-o", opt, r.img, r.dir); code != 1 || !strings.Contains(out, want) || r.mounted() {
			t.Errorf("%s exits with %d: %s", opt, code, out)
		}
	}
}

func mountDegraded(t *testing.T, bin string) {
	r := newRig(t, bin)
	images := oracle.MkfsN(t, 2, 256<<20, "-d", "raid1", "-m", "raid1")
	m := oracle.Mount(t, "", images...)
	if err := os.WriteFile(m.Dir+"/file", []byte("twice\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.Unmount()
	r.img = images[0]
	if out, code := r.run("mount", r.img, r.dir); code != 1 || !strings.Contains(out, "missing") || r.mounted() {
		t.Errorf("half of the devices: exit %d: %s", code, out)
	}
	for _, args := range [][]string{{"-o", "ro,degraded"}, {"-o", "device=" + images[1]}, {"--device", images[1]}, {"--scan", filepath.Dir(images[1])}} {
		r.mount(args...)
		r.read("file", "twice\n")
		r.run("umount", r.dir)
	}
}

func mountToRescue(t *testing.T, bin string) {
	r := newRig(t, bin)
	m := oracle.Mount(t, "commit=300", r.img)
	m.Sync()
	f, err := os.Create(m.Dir + "/logged")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	unclean := oracle.CopyUnclean(t, r.img)
	m.Unmount()
	whole := r.img
	r.img = unclean
	for opts, want := range map[string]bool{"ro": true, "ro,rescue=nologreplay": false, "ro,norecovery": false} {
		r.mount("-o", opts)
		if _, err := os.Stat(r.dir + "/logged"); (err == nil) != want {
			t.Errorf("%s: the file that only the log has: %v", opts, err)
		}
		r.run("umount", r.dir)
	}

	// Without any copy of the root tree's root the commit before it is left.
	r.img = oracle.Copy(t, whole)
	breakRoot(t, r.img)
	if out, code := r.run("mount", "-o", "ro", r.img, r.dir); code != exitDamage || r.mounted() {
		t.Errorf("without a root: exit %d: %s", code, out)
	}
	r.mount("-o", "ro,rescue=usebackuproot")
	r.read("file", "contents\n")
	r.run("umount", r.dir)
}

// breakRoot damages every copy of the root tree's root.
func breakRoot(t *testing.T, img string) {
	t.Helper()
	fsys, err := btrfs.Open(t.Context(), img, btrfs.Options{})
	if err != nil {
		t.Fatal(err)
	}
	root := fsys.Super().Root
	if err := fsys.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(img, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	places := regexp.MustCompile(`physical (\d+)`).FindAllStringSubmatch(oracle.Run(t, "btrfs-map-logical", "-l", fmt.Sprint(uint64(root)), img), -1)
	if len(places) != 2 {
		t.Fatalf("%d copies of the root, want 2", len(places))
	}
	for _, p := range places {
		at, err := strconv.ParseInt(p[1], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(make([]byte, 4096), at); err != nil {
			t.Fatal(err)
		}
	}
}

func fusermountEndsTheServer(t *testing.T, bin string) {
	r := newRig(t, bin)
	r.mount()
	for range 5 { // a mount waits for the last commit of the one before
		if err := os.WriteFile(r.dir+"/new", make([]byte, 1<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		oracle.Run(t, "fusermount3", "-u", r.dir)
		r.mount()
	}
	oracle.Run(t, "fusermount3", "-u", r.dir)
	if !r.gone(10 * time.Second) {
		t.Error("the server stays")
	}
}

func signalsUnmount(t *testing.T, bin string) {
	r := newRig(t, bin)
	r.mount()
	unix.Kill(r.server, unix.SIGTERM)
	if !r.gone(10*time.Second) || r.mounted() {
		t.Error("SIGTERM did not unmount")
	}
	// A mount in use disappears, and goes on for its user.
	r.mount()
	f, err := os.Open(r.dir + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unix.Kill(r.server, unix.SIGTERM)
	for end := time.Now().Add(10 * time.Second); r.mounted(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the mount in use did not go away")
		}
	}
	b := make([]byte, 8)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "contents" {
		t.Errorf("its user reads %q, %v", b, err)
	}
	if r.gone(0) {
		t.Error("the server ended while the mount was in use")
	}
	f.Close()
	if !r.gone(10 * time.Second) {
		t.Error("the server stays after its last user has left")
	}
}

func mountInTheForeground(t *testing.T, bin string) {
	r := newRig(t, bin)
	cmd := exec.Command(r.bin, "mount", "--foreground", r.img, r.dir)
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); !r.mounted(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nothing is mounted")
		}
	}
	r.read("file", "contents\n")
	cmd.Process.Signal(unix.SIGINT)
	if err := cmd.Wait(); err != nil || !strings.Contains(out.String(), "msg=unmounted") {
		t.Errorf("%v: %s", err, &out)
	}
}

func mountOfAKilledServer(t *testing.T, bin string) {
	r := newRig(t, bin)
	r.mount()
	unix.Kill(r.server, unix.SIGKILL)
	if !r.gone(10 * time.Second) {
		t.Fatal("cannot kill the server")
	}
	if out, code := r.run("mount", r.img, r.dir); code != 1 || !strings.Contains(out, "gobtrfs umount "+r.dir) {
		t.Errorf("mounting again exits with %d and does not say what to do: %s", code, out)
	}
	if out, code := r.run("umount", r.dir); code != 0 || r.mounted() {
		t.Errorf("umount exits with %d: %s", code, out)
	}
	r.mount()
	r.read("file", "contents\n")
}

// verbsThroughTheMount reads and changes an image that is mounted: by its name
// and by the directory.
func verbsThroughTheMount(t *testing.T, bin string) {
	r := newRig(t, bin)
	r.mount()
	say := func(want string, args ...string) {
		t.Helper()
		if out, code := r.run(args...); code != 0 || !strings.Contains(out, want) {
			t.Errorf("%q exits with %d and says %q, want %q", args, code, out, want)
		}
	}
	if err := os.WriteFile(r.dir+"/new", []byte("not committed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	say("not committed", "cat", r.img, "/new")
	say("new", "ls", r.dir)
	say("sub", "subvolume", "list", r.dir)
	say("Device size", "usage", r.dir)
	say("", "sync", r.img)
	// The kernel remembers names that are there, and names that are not.
	local := filepath.Join(t.TempDir(), "local")
	if err := os.WriteFile(local, []byte("from outside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.dir + "/later"); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	r.read("file", "contents\n")
	say("", "put", r.img, local, "/later")
	say("", "put", r.dir, local, "/file")
	say("", "quota", "enable", r.img) // the mount goes on after a change that is no edit of files
	say("0/5", "qgroup", "show", r.dir)
	say("", "rm", r.img, "/new")
	say("clean", "check", "--verify-data", r.dir)
	say("no errors found", "scrub", r.img)
	say("", "label", r.dir, "a new label")
	say("a new label", "label", r.img)
	image, err := os.OpenFile(r.img, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = image.WriteAt(make([]byte, 4096), 64<<20) // the second superblock
	if err := errors.Join(err, image.Close()); err != nil {
		t.Fatal(err)
	}
	say("1 errors found, 0 not corrected", "scrub", "--repair", r.dir)
	say("no errors found", "scrub", r.dir)
	say("trimmed", "trim", r.dir)
	r.read("later", "from outside\n")
	r.read("file", "from outside\n")
	if _, err := os.Stat(r.dir + "/new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a removed file: %v", err)
	}
	if out, code := r.run("cat", r.img, "/none"); code != 1 || strings.Count(out, "no such file") != 1 {
		t.Errorf("an error through the mount: exit %d: %s", code, out)
	}
	sockets, err := filepath.Glob("/run/gobtrfs/*")
	if err != nil || len(sockets) == 0 {
		t.Errorf("sockets %q, %v", sockets, err)
	}
	for _, s := range sockets {
		if st, err := os.Stat(s); err == nil && st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", s, st.Mode())
		}
	}
	if out, code := r.run("umount", r.dir); code != 0 {
		t.Errorf("umount exits with %d: %s", code, out)
	}
	say("from outside", "cat", r.img, "/file")
	oracle.Check(t, r.img)
}

// metricsAndTop watches a mount from outside.
func metricsAndTop(t *testing.T, bin string) {
	r := newRig(t, bin)
	if out, code := r.run("stats", r.img); code != 1 || !strings.Contains(out, "not mounted") {
		t.Errorf("stats of what is not mounted exits with %d: %s", code, out)
	}
	r.mount("--metrics", "127.0.0.1:0")
	if err := os.WriteFile(r.dir+"/big", make([]byte, 3<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(r.log)
	if err != nil {
		t.Fatal(err)
	}
	addr := regexp.MustCompile(`msg=metrics addr=(\S+)`).FindSubmatch(log)
	if addr == nil {
		t.Fatalf("no address in the log:\n%s", log)
	}
	res, err := http.Get("http://" + string(addr[1]) + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	served, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	printed, _ := r.run("stats", r.dir)
	line := regexp.MustCompile(`^(# (HELP|TYPE) gobtrfs_\w+ .+|gobtrfs_\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [-+.e0-9]+)$`)
	for _, text := range []string{string(served), printed} {
		for l := range strings.Lines(text) {
			if !line.MatchString(strings.TrimSuffix(l, "\n")) {
				t.Errorf("no line of the text format: %q", l)
			}
		}
		for _, want := range []string{"gobtrfs_written_bytes_total 3145728\n", `gobtrfs_requests_total{op="write"} 3`, `gobtrfs_space_total_bytes{type="data"} `, "gobtrfs_writable 1\n"} {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in:\n%s", want, text)
			}
		}
	}
	if out, code := r.run("top", "--count", "2", "--every", "100ms", r.dir); code != 0 || strings.Count(out, "transaction") != 2 {
		t.Errorf("top exits with %d: %s", code, out)
	}
	// On a terminal it ends at q, and leaves the terminal as it was.
	cmd := exec.Command("script", "-qec", bin+" top "+r.dir, "/dev/null")
	keys, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var screen bytes.Buffer
	cmd.Stdout = &screen
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if _, err := keys.Write([]byte("q")); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil || !strings.HasPrefix(screen.String(), screenOpen) || !strings.HasSuffix(screen.String(), screenClose) {
		t.Errorf("top on a terminal: %v, %q", err, screen.String())
	}
	keys.Close()
}

// mountAsAnOrdinaryUser runs as nobody, with an image of nobody's. /dev/fuse is
// given to everybody, as every distribution does but not every container. (Not
// in a mount namespace of its own: that would hold on to whatever other tests
// have mounted at the moment.)
func mountAsAnOrdinaryUser(t *testing.T, bin string) {
	r := newRig(t, bin)
	const nobody = 65534
	if out, code := r.run("chown", r.img, "65534:65534", "/sub"); code != 0 {
		t.Fatal(out)
	}
	for _, p := range []string{r.img, r.dir, filepath.Dir(r.dir)} {
		if err := os.Chown(p, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(r.img, 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat("/dev/fuse")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod("/dev/fuse", 0o666); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Chmod("/dev/fuse", st.Mode().Perm()); err != nil {
			t.Error(err)
		}
	})
	const script = `set -e
"$1" mount --log "$4" "$2" "$3"
cat "$3/file" "$3/sub/inner"
echo mine > "$3/sub/mine"; "$1" cat "$2" /sub/mine
"$1" umount "$3" && echo unmounted
"$1" mount -o ro,allow_other --log "$4" "$2" "$3" || echo "exit $?"
"$1" mount --log "$4" "$2" "$3"
`
	out := oracle.Run(t, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", script, "sh", bin, r.img, r.dir, r.log)
	for _, want := range []string{"contents\nof the subvolume\nmine\nunmounted\n", "user_allow_other in /etc/fuse.conf", "exit 1\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	r.findServer()
	if _, err := os.ReadFile(r.dir + "/file"); !errors.Is(err, unix.EACCES) {
		t.Errorf("another user, even root, reads: %v, want EACCES", err)
	}
	if out, code := r.run("umount", r.dir); code != 0 || !r.gone(0) {
		t.Errorf("umount by root exits with %d: %s", code, out)
	}
}

// mountByMount8AndFstab lets mount(8) find the helper, which it looks for in
// /sbin and nowhere else.
func mountByMount8AndFstab(t *testing.T, bin string) {
	r := newRig(t, bin)
	for _, helper := range []string{"/sbin/mount.fuse.gobtrfs", "/sbin/umount.fuse.gobtrfs"} {
		if _, err := os.Stat(helper); err == nil {
			t.Fatalf("%s is installed: this test needs its place", helper)
		}
		os.Remove(helper) // a link of a test that was killed leads nowhere
		if err := os.Symlink(bin, helper); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(helper) })
	}

	oracle.Run(t, "mount", "-t", "fuse.gobtrfs", "-o", "ro,log="+r.log, r.img, r.dir)
	r.findServer()
	r.read("file", "contents\n")
	if m := oracle.Run(t, "findmnt", "-n", "-o", "SOURCE,FSTYPE", r.dir); strings.Join(strings.Fields(m), " ") != r.img+" fuse.gobtrfs" {
		t.Errorf("mounted: %s", m)
	}
	oracle.Run(t, "mount", "-o", "remount,ro", r.dir)
	oracle.Run(t, "umount", r.dir)
	// For root it asks statfs(2) for the type, which knows of fuse only, and for
	// no helper of ours: it does not wait.
	if !r.gone(10 * time.Second) {
		t.Error("the server goes on after umount(8)")
	}

	fstab := filepath.Join(filepath.Dir(r.dir), "fstab")
	if err := os.WriteFile(fstab, fmt.Appendf(nil, "%s %s fuse.gobtrfs ro,nofail,allow_other,subvol=sub,log=%s 0 0\n", r.img, r.dir, r.log), 0o644); err != nil {
		t.Fatal(err)
	}
	oracle.Run(t, "mount", "--fstab", fstab, r.dir)
	r.findServer()
	r.read("inner", "of the subvolume\n")
	if m := oracle.Run(t, "findmnt", "-n", "-o", "OPTIONS", r.dir); !strings.Contains(m, "allow_other") || strings.Contains(m, "nosuid") {
		t.Errorf("mounted with %s", m)
	}
	oracle.Run(t, "/sbin/umount.fuse.gobtrfs", r.dir, "-t", "fuse.gobtrfs")
	if !r.gone(0) {
		t.Error("the helper of umount(8) returned before the server had ended")
	}

	cmd := exec.Command("mount", "-t", "fuse.gobtrfs", fstab, r.dir)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != exitMount || !strings.Contains(string(out), "no btrfs superblock") {
		t.Errorf("what is no filesystem: %v: %s", err, out)
	}
}

// mountInTwoNamespaces: a mount namespace that was made meanwhile has the mount,
// too. umount does not wait for that.
func mountInTwoNamespaces(t *testing.T, bin string) {
	r := newRig(t, bin)
	r.mount()
	other := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; read line")
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	said, code := r.run("umount", r.dir)
	if code != 0 || !strings.Contains(said, "another mount namespace") || r.gone(0) {
		t.Errorf("umount exits with %d and says %q", code, said)
	}
	in.Close()
	if err := other.Wait(); err != nil && other.ProcessState.ExitCode() != 1 {
		t.Error(err)
	}
	if !r.gone(10 * time.Second) {
		t.Error("the server goes on without any mount")
	}
	oracle.Check(t, r.img)
}

func TestMountInfoLines(t *testing.T) {
	t.Parallel()
	const line = `36 35 98:0 /mnt1 /mnt\0402\134x rw,noatime master:1 - ext3 /dev/root rw,errors=continue` + "\n"
	m, ok := parseMountInfo(line)
	if want := (mountEntry{`/mnt 2\x`, "ext3", 98 << 20, "/dev/root"}); !ok || m != want {
		t.Errorf("%+v, %v, want %+v", m, ok, want)
	}
	for _, bad := range []string{"", "36 35 98:0 /mnt1", "36 35 98:0 / /x rw - ", "36 35 x:0 / /x rw - ext3 a b"} {
		if m, ok := parseMountInfo(bad); ok {
			t.Errorf("%q is %+v", bad, m)
		}
	}
}

func TestTheLogIsLimited(t *testing.T) {
	t.Parallel()
	now := time.Unix(1, 0)
	l := &lineLimit{now: func() time.Time { return now }}
	count := func(n int) (ok, dropped int) {
		for range n {
			if yes, d := l.take(); yes {
				ok, dropped = ok+1, dropped+d
			}
		}
		return ok, dropped
	}
	if ok, _ := count(1000); ok != lineBurst {
		t.Errorf("%d lines at once, want %d", ok, lineBurst)
	}
	now = now.Add(time.Second)
	if ok, dropped := count(1000); ok != 10 || dropped != 1000-lineBurst {
		t.Errorf("%d lines in a second, %d left out before", ok, dropped)
	}
	now = now.Add(time.Hour)
	if ok, _ := count(1000); ok != lineBurst {
		t.Errorf("%d lines after a pause, want %d", ok, lineBurst)
	}
}
