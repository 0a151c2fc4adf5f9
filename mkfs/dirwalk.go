package mkfs

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
)

// Dir is a directory of the running system as a source. Its own owner, mode,
// times and attributes become those of the top directory. Names and attributes
// are read first, contents later; a file that changes in between is an error.
func Dir(path string) Source { return dirSource{path} }

type dirSource struct{ path string }

// fileKey tells files with several names apart.
type fileKey struct{ dev, ino uint64 }

// found is an entry of a directory as the system describes it.
type found struct {
	name   string
	i      inode
	key    fileKey
	nlink  uint64
	target string
	xattrs []xattr
	times  times
}

// walk is a traversal of a directory tree by several goroutines. Directories wait
// in a stack; each is read whole and then entered into the tree under mu. The
// order in which that happens does not matter: number sorts.
type walk struct {
	t    *tree
	f    *filter
	root string
	from uint8

	mu    sync.Mutex
	wake  *sync.Cond
	stack []task // protected by mu
	busy  int    // goroutines that may still push; protected by mu
	err   error  // the first; protected by mu
	links map[fileKey]inodeID
}

type task struct {
	id  inodeID
	rel string
}

func (s dirSource) load(ctx context.Context, t *tree, f *filter) error {
	if len(t.names) > 1 {
		return fmt.Errorf("%w: directory %s: only the first source can be a directory", ErrSource, s.path)
	}
	root := filepath.Clean(s.path)
	w := &walk{t: t, f: f, root: root, links: map[fileKey]inodeID{}}
	w.wake = sync.NewCond(&w.mu)
	var err error
	if w.from, err = t.addOpener(&dirOpener{root: root}); err != nil {
		return err
	}
	if err := w.top(); err != nil {
		return err
	}
	w.stack = []task{{0, ""}}
	var wg sync.WaitGroup
	for range max(f.workers, 1) {
		wg.Go(func() { w.work(ctx) })
	}
	wg.Wait()
	return w.err
}

// top describes the top directory.
func (w *walk) top() error {
	e, err := statTop(w.root)
	if err != nil {
		return err
	}
	if !e.i.isDir() {
		return fmt.Errorf("%w: %s is not a directory", ErrSource, w.root)
	}
	w.f.mapping.apply(&e.i)
	top := &w.t.inodes[0]
	e.i.names, e.i.kids, e.i.from = top.names, top.kids, w.from
	*top = e.i
	w.details(0, &e)
	return nil
}

// work reads directories until none is left or something failed.
func (w *walk) work(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		for len(w.stack) == 0 && w.busy > 0 && w.err == nil {
			w.wake.Wait()
		}
		if len(w.stack) == 0 || w.err != nil {
			w.wake.Broadcast()
			return
		}
		next := w.stack[len(w.stack)-1]
		w.stack = w.stack[:len(w.stack)-1]
		w.busy++
		w.mu.Unlock()
		entries, err := readDir(w.root, next.rel, w.f.mapping)
		if err == nil {
			err = ctx.Err()
		}
		w.mu.Lock()
		w.busy--
		if err == nil {
			err = w.enterLocked(next, entries)
		}
		if err != nil && w.err == nil {
			w.err = err
		}
		w.wake.Broadcast()
	}
}

// enterLocked adds a directory's entries to the tree; it needs mu.
func (w *walk) enterLocked(dir task, entries []found) error {
	for k := range entries {
		e := &entries[k]
		if e.i.isRegular() && w.f.own[e.key] {
			continue
		}
		if e.nlink > 1 && !e.i.isDir() {
			if id, ok := w.links[e.key]; ok {
				if _, err := w.t.addName(dir.id, e.name, id); err != nil {
					return err
				}
				continue
			}
		}
		w.f.mapping.apply(&e.i)
		e.i.from = w.from
		id, err := w.t.addInode(e.i)
		if err != nil {
			return err
		}
		if _, err := w.t.addName(dir.id, e.name, id); err != nil {
			return err
		}
		if e.nlink > 1 && !e.i.isDir() {
			w.links[e.key] = id
		}
		w.details(id, e)
		if e.i.isDir() {
			w.stack = append(w.stack, task{id, joinRel(dir.rel, e.name)})
		}
	}
	return nil
}

func (w *walk) details(id inodeID, e *found) {
	if e.target != "" {
		w.t.target[id] = e.target
	}
	if len(e.xattrs) > 0 {
		w.t.xattrs[id] = sortXattrs(e.xattrs)
	}
	if w.f.mapping.keepTimes() {
		w.t.times[id] = e.times
	}
}

func joinRel(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
