package btrfs_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
	"gobtrfs/mkfs"
)

var (
	stressTime = flag.Duration("stress.time", 3*time.Second, "how long goroutines edit at the same time")
	stressSeed = flag.Uint64("stress.seed", 1, "seed of edits at the same time")
)

// inMemory makes a filesystem in memory.
func inMemory(t testing.TB, size int64) *blockdev.Memory {
	t.Helper()
	m := blockdev.NewMemory(size)
	_, err := mkfs.Make(t.Context(), []blockdev.Device{m}, mkfs.Options{})
	must(t, err)
	return m
}

// editDevice opens a filesystem for writing.
func editDevice(t testing.TB, d blockdev.Device, o btrfs.Options) (*btrfs.FS, *btrfs.Editor) {
	t.Helper()
	o.Writable = true
	f, err := btrfs.OpenDevices(t.Context(), []blockdev.Device{d}, o)
	must(t, err)
	top, err := f.TopLevel(t.Context())
	must(t, err)
	e, err := top.Edit()
	must(t, err)
	return f, e
}

// wholeDevice fails if our checker finds anything.
func wholeDevice(t testing.TB, d blockdev.Device) {
	t.Helper()
	r, err := check.Run(context.Background(), []blockdev.Device{d}, check.Options{VerifyData: true, NoPaths: true})
	must(t, err)
	if r.Errors > 0 {
		t.Fatalf("%d errors: %v", r.Errors, r.Findings)
	}
}

// expected says whether an error is one that edits of the same few names get
// from each other: none is a failure of the filesystem.
func expected(err error) bool {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) {
		return true
	}
	errno, ok := errors.AsType[syscall.Errno](err)
	return ok && errno != syscall.EIO && errno != syscall.EUCLEAN
}

// TestManyEditors lets 64 goroutines do everything at once with names that meet:
// they edit, read what is running and what is committed, and commit. Every now
// and then all stand still, and the accounting must be right; at the end the
// filesystem is whole.
func TestManyEditors(t *testing.T) {
	m := inMemory(t, 1<<30)
	f, e := editDevice(t, m, btrfs.Options{DirtyNodeBytes: 4 << 20})
	var still sync.RWMutex // held for reading by whoever works
	var ops, commits atomic.Int64
	end := time.Now().Add(*stressTime)
	var wg sync.WaitGroup
	for g := range 64 {
		wg.Go(func() {
			gen := &opMaker{rnd: rand.New(rand.NewPCG(*stressSeed, uint64(g)))}
			w := &ourSide{Editor: e, w: f.Writer()}
			defer func() { must(t, w.release(context.Background())) }()
			for time.Now().Before(end) && !t.Failed() {
				still.RLock()
				if err := oneEdit(t.Context(), f, w, gen); !expected(err) || f.Failed() != nil {
					t.Errorf("goroutine %d: %v", g, err)
				}
				still.RUnlock()
				ops.Add(1)
			}
		})
	}
	wg.Go(func() {
		for time.Now().Before(end) && !t.Failed() {
			time.Sleep(50 * time.Millisecond)
			still.Lock()
			if err := errors.Join(f.Sync(t.Context()), f.Verify(), f.Failed()); err != nil {
				t.Error(err)
			}
			still.Unlock()
			commits.Add(1)
		}
	})
	wg.Wait()
	must(t, f.Sync(t.Context()))
	must(t, f.Verify())
	must(t, f.Close())
	wholeDevice(t, m)
	t.Logf("-stress.seed=%d: %d operations, %d times verified", *stressSeed, ops.Load(), commits.Load())
}

func oneEdit(ctx context.Context, f *btrfs.FS, e *ourSide, gen *opMaker) error {
	switch gen.rnd.IntN(12) {
	case 0:
		_, err := e.Stat(ctx, gen.path("fffd"))
		return err
	case 1:
		_, err := e.Names(ctx, gen.path("d"))
		return err
	case 2:
		_, err := e.ReadAt(ctx, gen.path("f"), make([]byte, 5000), 0)
		return err
	case 3:
		if gen.rnd.IntN(8) == 0 {
			return f.Sync(ctx)
		}
	case 4:
		if gen.rnd.IntN(8) == 0 {
			return readEverything(ctx, f)
		}
	}
	return gen.next().onOurs(ctx, e)
}

// TestWritersAtTheEnd fills a small filesystem with 256 writers that go on when
// it is full: each removes a file of its own and tries again. None waits for
// ever, ENOSPC is all that anybody is told, and every byte comes back.
func TestWritersAtTheEnd(t *testing.T) {
	writers, files, size := 256, 40, 48<<10
	if testing.Short() {
		writers, files, size = 32, 6, 1<<20
	}
	m := inMemory(t, 160<<20)
	f, e := editDevice(t, m, btrfs.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	var full atomic.Int64
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			dir := fmt.Sprint("/w", g)
			if err := e.Mkdir(ctx, dir, btrfs.Attr{Perm: 0o755}); err != nil {
				if !errors.Is(err, syscall.ENOSPC) {
					t.Error(err)
				}
				return
			}
			data := oracle.Noise(uint64(g), size)
			for i, mine := 0, 0; i < files; i++ {
				name := fmt.Sprintf("%s/%d", dir, i)
				err := e.Create(ctx, name, btrfs.Attr{Perm: 0o644})
				if err == nil {
					mine++
					_, err = e.WriteAt(ctx, name, data, 0)
				}
				if errors.Is(err, syscall.ENOSPC) {
					full.Add(1)
					err = nil
					if mine > 0 {
						err = e.RemoveAll(ctx, fmt.Sprintf("%s/%d", dir, i-mine+1))
						mine--
					}
				}
				if err != nil {
					t.Errorf("writer %d: %v", g, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if full.Load() == 0 {
		t.Error("it never became full")
	}
	must(t, f.Sync(ctx))
	must(t, f.Verify())
	for g := range writers {
		must(t, e.RemoveAll(ctx, fmt.Sprint("/w", g)))
	}
	must(t, f.Sync(ctx))
	must(t, f.Verify())
	oneSpare(t, f)
	for _, g := range f.SpaceGroups() {
		if g.Type.Type() == disk.BlockGroupData && g.Used != 0 {
			t.Errorf("block group %d still uses %d bytes", g.Start, g.Used)
		}
	}
	must(t, f.Close())
	wholeDevice(t, m)
	t.Logf("%d times full", full.Load())
}

// TestNamespaceIsLinear records what clients do to a few names and what they
// were told, and asks whether there is an order of the operations, each within
// the time that it took, that explains it. Files are told apart by their
// permissions.
func TestNamespaceIsLinear(t *testing.T) {
	f, e := editDevice(t, inMemory(t, 256<<20), btrfs.Options{})
	defer f.Close()
	for round := range 40 {
		dir := fmt.Sprint("/", round)
		must(t, e.Mkdir(t.Context(), dir, btrfs.Attr{Perm: 0o755}))
		history := nameHistory(t, f, e, dir, *stressSeed+uint64(round))
		if res, _ := porcupine.CheckOperationsVerbose(nameModel, history, 20*time.Second); res == porcupine.Illegal {
			for _, o := range history {
				t.Logf("%d..%d client %d: %s", o.Call, o.Return, o.ClientId, nameModel.DescribeOperation(o.Input, o.Output))
			}
			t.Fatalf("round %d, -stress.seed=%d: no order explains this", round, *stressSeed)
		}
	}
}

// nameOp is an operation on names 0 to 3 of a directory.
type nameOp struct {
	kind  string // create, remove, rename, stat
	a, b  int
	token uint16 // of create
}

// nameResult is the token that stat saw, and the error.
type nameResult struct {
	token uint16
	err   syscall.Errno
}

// names is the directory: the token of each name's file, 0 for none.
type names [4]uint16

var nameModel = porcupine.Model{
	Init: func() any { return names{} },
	Step: func(state, in, out any) (bool, any) {
		s, o, r := state.(names), in.(nameOp), out.(nameResult)
		want := nameResult{}
		switch {
		case o.kind == "create" && s[o.a] != 0:
			want.err = syscall.EEXIST
		case o.kind == "create":
			s[o.a] = o.token
		case s[o.a] == 0:
			want.err = syscall.ENOENT
		case o.kind == "remove":
			s[o.a] = 0
		case o.kind == "rename" && o.a != o.b:
			s[o.b], s[o.a] = s[o.a], 0
		case o.kind == "stat":
			want.token = s[o.a]
		}
		return want == r, s
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v: %+v", in, out) },
}

func nameHistory(t *testing.T, f *btrfs.FS, e *btrfs.Editor, dir string, seed uint64) []porcupine.Operation {
	const clients, each = 6, 30
	start := time.Now()
	parts := make([][]porcupine.Operation, clients)
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(c)))
			for i := range each {
				o := nameOp{
					kind: []string{"create", "create", "remove", "rename", "stat", "stat"}[rnd.IntN(6)],
					a:    rnd.IntN(4), b: rnd.IntN(4), token: uint16(1 + c*each + i),
				}
				call := time.Since(start)
				r := nameResult{}
				err := o.run(t.Context(), e, dir, &r)
				if err != nil && !errors.As(err, &r.err) {
					t.Error(err)
				}
				parts[c] = append(parts[c], porcupine.Operation{
					ClientId: c, Input: o, Output: r, Call: int64(call), Return: int64(time.Since(start)),
				})
				if i%10 == 9 {
					if err := f.Sync(t.Context()); err != nil {
						t.Error(err)
					}
				}
				runtime.Gosched()
			}
		})
	}
	wg.Wait()
	var all []porcupine.Operation
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func (o nameOp) run(ctx context.Context, e *btrfs.Editor, dir string, r *nameResult) error {
	a, b := fmt.Sprint(dir, "/", o.a), fmt.Sprint(dir, "/", o.b)
	switch o.kind {
	case "create":
		return e.Create(ctx, a, btrfs.Attr{Perm: fs.FileMode(o.token)})
	case "remove":
		return e.Remove(ctx, a)
	case "rename":
		return e.Rename(ctx, a, b, 0)
	}
	info, err := e.Stat(ctx, a)
	if err == nil {
		r.token = uint16(info.Mode().Perm())
	}
	return err
}
