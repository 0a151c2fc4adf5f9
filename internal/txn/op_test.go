package txn_test

import (
	"context"
	"errors"
	"testing"

	"gobtrfs/disk"
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
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, txn.Options{CommitInterval: -1})
			ok(t, f.put(0, 1))
			func() {
				defer func() {
					if r := recover(); (r != nil) != c.panics {
						t.Errorf("panic: %v", r)
					}
				}()
				err := f.fs.Do(t.Context(), 1, space.ClassNormal, func(ctx context.Context) error {
					tree, err := f.fs.Tree(ctx, disk.TreeFS)
					ok(t, err)
					if c.change {
						ok(t, tree.Insert(ctx, key(5), make([]byte, 10)))
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
