//go:build linux && !386 && !arm && !mips && !mipsle

package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gobtrfs/internal/oracle"
)

var (
	killRounds   = flag.Int("kill.rounds", 10, "how often the server of a mount is killed")
	killSeed     = flag.Uint64("kill.seed", 1, "seed of the moments at which it is killed, and of the work meanwhile")
	killLongest  = flag.Duration("kill.longest", 250*time.Millisecond, "the latest of these moments, from when it has mounted")
	killFsstress = flag.String("kill.fsstress", "", "`PROGRAM` that works beside, fsstress of xfstests; default: random operations of the test's own")
)

// killedAtAnyMoment kills the server with files under change. Each record that
// was synced is there when the image is mounted again, and the image is whole;
// in every fifth round Linux mounts a copy and finds the records, too.
func killedAtAnyMoment(t *testing.T, bin string) {
	r := newRigOf(t, bin, 1<<30)
	rnd := rand.New(rand.NewPCG(*killSeed, 1))
	t.Logf("seed %d", *killSeed)
	var acked, early int
	for round := range *killRounds {
		r.mount("-o", []string{"commit=1", "compress=zstd", "dirty_mib=8", "commit=30"}[round%4])
		writers := make([]*recorder, 3)
		var work sync.WaitGroup
		for i := range writers {
			dir := fmt.Sprintf("records-%d-%d", round, i)
			if err := os.Mkdir(filepath.Join(r.dir, dir), 0o755); err != nil {
				t.Fatal(err)
			}
			writers[i] = &recorder{dir: dir, seed: rnd.Uint64(), files: map[string]*record{}}
			work.Go(func() { writers[i].run(r.dir) })
		}
		stop := disturb(t, filepath.Join(r.dir, fmt.Sprintf("stress-%d", round)), rnd.Uint64(), &work)
		time.Sleep(time.Duration(rnd.Int64N(int64(*killLongest))))
		unix.Kill(r.server, unix.SIGKILL)
		work.Wait()
		stop()
		if !r.gone(10 * time.Second) {
			t.Fatal("cannot kill the server")
		}
		if out, code := r.run("umount", r.dir); code != 0 {
			t.Fatalf("umount exits with %d: %s", code, out)
		}
		oracle.Check(t, r.img)
		if round%5 == 4 {
			linuxHas(t, r.img, writers)
		}
		r.mount()
		n := 0
		for _, w := range writers {
			w.verify(t, r.dir)
			n += w.acked
		}
		acked += n
		if n == 0 {
			early++
		}
		for _, old := range []string{"stress-%d", "records-%d-0", "records-%d-1"} { // of the third the records stay
			if err := os.RemoveAll(filepath.Join(r.dir, fmt.Sprintf(old, round))); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
		if out, code := r.run("umount", r.dir); code != 0 {
			t.Fatalf("umount exits with %d: %s", code, out)
		}
		if t.Failed() {
			t.Fatalf("in round %d of seed %d", round, *killSeed)
		}
	}
	oracle.Check(t, r.img)
	t.Logf("killed %d times, %d of them before anything was synced; %d records were synced", *killRounds, early, acked)
	if acked == 0 {
		t.Error("nothing was ever synced")
	}
}

// linuxHas looks for the records in a copy of the image on a kernel mount,
// which replays the log.
func linuxHas(t *testing.T, img string, writers []*recorder) {
	t.Helper()
	img2 := filepath.Join(oracle.Dir(t), "copy")
	oracle.Run(t, "cp", "--sparse=always", img, img2)
	m := oracle.Mount(t, "", img2)
	for _, w := range writers {
		w.verify(t, m.Dir)
	}
	m.Unmount()
	oracle.Check(t, img2)
	if err := os.Remove(img2); err != nil {
		t.Error(err)
	}
}

// recorder writes files and syncs them, and remembers what it was told is
// durable.
type recorder struct {
	dir   string // in the mount
	seed  uint64
	files map[string]*record
	acked int
}

// record is what must be found of a file.
type record struct {
	synced []byte // the file's beginning, once exists
	next   []byte // in place of synced: what was on its way; nil: nothing
	exists bool
	longer bool // more may follow
}

// run works until the mount is gone.
func (w *recorder) run(mount string) {
	rnd := rand.New(rand.NewPCG(w.seed, 2))
	for n := 0; ; n++ {
		b := oracle.Noise(w.seed+uint64(n), 1+rnd.IntN(1<<rnd.IntN(17)))
		var err error
		switch n % 4 {
		case 0:
			err = w.create(mount, fmt.Sprintf("new-%d", n), b)
		case 1:
			err = w.extend(mount, b)
		case 2:
			err = w.replace(mount, b)
		case 3:
			err = w.overwrite(mount, byte(n))
		}
		switch {
		case err == nil:
			w.acked++
		case !errors.Is(err, syscall.ENOSPC):
			return
		}
	}
}

func (w *recorder) file(name string) *record {
	if w.files[name] == nil {
		w.files[name] = &record{}
	}
	return w.files[name]
}

// create makes a file that is then never touched again.
func (w *recorder) create(mount, name string, b []byte) error {
	if err := syncedWrite(filepath.Join(mount, w.dir, name), os.O_CREATE|os.O_EXCL, b, -1); err != nil {
		return err
	}
	*w.file(name) = record{synced: b, exists: true}
	return nil
}

// extend adds to the end of a file.
func (w *recorder) extend(mount string, b []byte) error {
	f := w.file("log")
	f.longer = true
	if err := syncedWrite(filepath.Join(mount, w.dir, "log"), os.O_CREATE, b, int64(len(f.synced))); err != nil {
		return err
	}
	f.synced, f.exists = append(f.synced, b...), true
	return nil
}

// replace renames a synced file over another, and syncs the directory.
func (w *recorder) replace(mount string, b []byte) error {
	f := w.file("current")
	dir := filepath.Join(mount, w.dir)
	if err := syncedWrite(dir+"/coming", os.O_CREATE|os.O_TRUNC, b, -1); err != nil {
		return err
	}
	f.next = b
	if err := os.Rename(dir+"/coming", dir+"/current"); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	d.Close()
	if err == nil {
		*f = record{synced: b, exists: true}
	}
	return err
}

// overwrite changes a sector in the middle of a file.
func (w *recorder) overwrite(mount string, b byte) error {
	const sector, sectors = 4096, 3
	f := w.file("slot")
	old := f.synced
	if !f.exists {
		old = make([]byte, sector*sectors)
	}
	f.next = bytes.Clone(old)
	copy(f.next[sector:], bytes.Repeat([]byte{b}, sector))
	off := int64(sector)
	if part := f.next[sector : 2*sector]; !f.exists {
		if err := syncedWrite(filepath.Join(mount, w.dir, "slot"), os.O_CREATE, f.next, 0); err != nil {
			return err
		}
	} else if err := syncedWrite(filepath.Join(mount, w.dir, "slot"), 0, part, off); err != nil {
		return err
	}
	*f = record{synced: f.next, exists: true}
	return nil
}

// syncedWrite writes at an offset, -1 for a file from its beginning.
func syncedWrite(path string, flags int, b []byte, off int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|flags, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(b, max(off, 0)); err != nil {
		return err
	}
	return f.Sync()
}

// verify looks for everything that was synced.
func (w *recorder) verify(t *testing.T, mount string) {
	t.Helper()
	for name, f := range w.files {
		if !f.exists {
			continue
		}
		got, err := os.ReadFile(filepath.Join(mount, w.dir, name))
		if f.longer && len(got) > len(f.synced) {
			got = got[:len(f.synced)]
		}
		if err != nil || !bytes.Equal(got, f.synced) && (f.next == nil || !bytes.Equal(got, f.next)) {
			t.Errorf("%s/%s: %d bytes of %d that were synced, equal as far as %d; %v", w.dir, name, len(got), len(f.synced), common(got, f.synced), err)
		}
	}
}

func common(a, b []byte) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// disturb starts random work in a fresh directory. Work of the test's own ends
// with the mount; stop ends a program.
func disturb(t *testing.T, dir string, seed uint64, work *sync.WaitGroup) (stop func()) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if *killFsstress == "" {
		for i := range 3 {
			work.Go(func() { churn(dir, rand.New(rand.NewPCG(seed, uint64(i)))) })
		}
		return func() {}
	}
	cmd := exec.Command(*killFsstress, "-d", dir, "-n", "1000000", "-p", "4", "-s", strconv.FormatUint(seed%1e9, 10))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		_ = cmd.Wait() // killed
	}
}

// churn does random things to a few names until the mount is gone.
func churn(dir string, rnd *rand.Rand) {
	noise := oracle.Noise(rnd.Uint64(), 1<<16)
	name := func() string { return fmt.Sprintf("%s/%d/%d", dir, rnd.IntN(4), rnd.IntN(12)) }
	for {
		a, b := name(), name()
		var err error
		switch rnd.IntN(12) {
		case 0:
			err = os.MkdirAll(filepath.Dir(a), 0o755)
		case 1:
			err = os.Mkdir(a, 0o700)
		case 2:
			err = os.Rename(a, b)
		case 3:
			err = os.Link(a, b)
		case 4:
			err = os.Symlink(b, a)
		case 5:
			err = os.Remove(a)
		case 6:
			err = os.Truncate(a, rnd.Int64N(1<<18))
		case 7:
			err = unix.Setxattr(a, "user.x", noise[:rnd.IntN(200)], 0)
		case 8:
			err = os.RemoveAll(filepath.Dir(a))
		default:
			err = scribble(a, noise[:rnd.IntN(len(noise))], rnd)
		}
		if errors.Is(err, syscall.ENOTCONN) || errors.Is(err, syscall.ECONNABORTED) {
			return
		}
	}
}

// scribble writes into a file, or gives it space, and syncs now and then.
func scribble(name string, b []byte, rnd *rand.Rand) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	off := rnd.Int64N(1 << 18)
	switch rnd.IntN(8) {
	case 0:
		return unix.Fallocate(int(f.Fd()), uint32(rnd.IntN(2)), off, int64(len(b)+1))
	case 1:
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, int64(len(b)+1))
	case 2:
		return f.Sync()
	case 3:
		_, err = io.Copy(io.Discard, f)
		return err
	}
	_, err = f.WriteAt(b, off)
	return err
}
