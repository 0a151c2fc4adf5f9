package txn_test

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"testing"

	"gobtrfs/disk"
	"gobtrfs/internal/btree"
	"gobtrfs/internal/space"
	"gobtrfs/internal/txn"
)

// TestRefusedOperation: an operation that fails before its first change leaves
// the filesystem as it was; one that fails or panics behind it ends writing,
// and nobody is left waiting.
func TestRefusedOperation(t *testing.T) {
	cause := errors.New("refused")
	for _, c := range []struct {
		name    string
		change  bool
		panics  bool
		aborted bool
	}{
		{"before the first change", false, false, false},
		{"panic before the first change", false, true, false},
		{"after a change", true, false, true},
		{"panic after a change", true, true, true},
	} {
		for name, run := range map[string]func(ctx context.Context, f *txn.FS, op func(change func(disk.Key) error) error) error{
			"alone": func(ctx context.Context, f *txn.FS, op func(func(disk.Key) error) error) error {
				return f.Do(ctx, 1, space.ClassNormal, func(ctx context.Context) error {
					return op(func(k disk.Key) error {
						tree, err := f.Tree(ctx, disk.TreeFS)
						ok(t, err)
						return tree.Insert(ctx, k, make([]byte, 10))
					})
				})
			},
			"beside others": func(ctx context.Context, f *txn.FS, op func(func(disk.Key) error) error) error {
				return f.RunJoint(ctx, 1, space.ClassNormal, func(ctx context.Context, j *txn.Joint) error {
					return op(func(k disk.Key) error {
						tree, err := f.Tree(ctx, disk.TreeFS)
						ok(t, err)
						return j.Insert(ctx, tree, btree.Item{Key: k, Data: make([]byte, 10)})
					})
				})
			},
		} {
			t.Run(c.name+", "+name, func(t *testing.T) {
				f := newFixture(t, txn.Options{CommitInterval: -1})
				ok(t, f.put(0, 1))
				func() {
					defer func() {
						if r := recover(); (r != nil) != c.panics {
							t.Errorf("panic: %v", r)
						}
					}()
					err := run(t.Context(), f.fs, func(change func(disk.Key) error) error {
						if c.change {
							ok(t, change(key(5)))
						}
						if c.panics {
							panic(cause)
						}
						return cause
					})
					if !errors.Is(err, cause) {
						t.Errorf("error %v", err)
					}
				}()
				if aborted := errors.Is(f.fs.Err(), txn.ErrAborted); aborted != c.aborted {
					t.Fatalf("aborted: %v, want %v", f.fs.Err(), c.aborted)
				}
				err := f.put(1, 1)
				if err == nil {
					err = f.fs.Commit(t.Context())
				}
				if (err != nil) != c.aborted {
					t.Errorf("the next operation and its commit: %v", err)
				}
				if !c.aborted {
					f.verify()
				}
			})
		}
	}
}

// TestJointOperations: operations that run together are each whole in every
// commit and every look, share items without losing a change, and pay for the
// nodes they make with their own promises.
func TestJointOperations(t *testing.T) {
	const workers, each = 8, 150
	f := newFixture(t, txn.Options{CommitInterval: -1, DirtyNodeBytes: 1 << 20})
	ctx := t.Context()
	ok(t, f.put(0, 0)) // counts the operations
	var wg, others sync.WaitGroup
	stop := make(chan struct{})
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := f.fs.Commit(ctx); err != nil {
				t.Error(err)
				return
			}
			err := f.fs.Look(ctx, func(ctx context.Context) error {
				tree, err := f.fs.Tree(ctx, disk.TreeFS)
				if err != nil {
					return err
				}
				n, have := counter(t, tree), 0
				for k := key(1); ; k = k.Next() {
					it, ok, err := tree.Ceil(ctx, k)
					if err != nil {
						return err
					}
					if !ok || it.Key.Type != k.Type || it.Key.ObjectID != k.ObjectID {
						break
					}
					have, k = have+1, it.Key
				}
				if have != 2*n {
					t.Errorf("%d operations, %d items", n, have)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				err := f.fs.RunJoint(ctx, 3, space.ClassNormal, func(ctx context.Context, j *txn.Joint) error {
					tree, err := f.fs.Tree(ctx, disk.TreeFS)
					if err != nil {
						return err
					}
					for _, at := range []int{1 + w*each + i, 1_000_000 - w*each - i} {
						if err := j.Insert(ctx, tree, btree.Item{Key: key(at), Data: make([]byte, 300)}); err != nil {
							return err
						}
					}
					return j.Update(ctx, tree, key(0), func(data []byte) error {
						binary.LittleEndian.PutUint64(data, binary.LittleEndian.Uint64(data)+1)
						return nil
					})
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	others.Wait()
	ok(t, f.fs.Commit(ctx))
	ok(t, f.fs.Look(ctx, func(ctx context.Context) error {
		tree, err := f.fs.Tree(ctx, disk.TreeFS)
		ok(t, err)
		if n := counter(t, tree); n != workers*each {
			t.Errorf("%d operations counted, want %d", n, workers*each)
		}
		return nil
	}))
	f.verify()
}

func counter(t *testing.T, tree *txn.Tree) int {
	data, found, err := tree.Get(t.Context(), key(0))
	if err != nil || !found {
		t.Fatalf("no counter: %v", err)
	}
	return int(binary.LittleEndian.Uint64(data))
}
