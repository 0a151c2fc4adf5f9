package check

import (
	"sync"

	"gobtrfs/disk"
)

// dropPaths are the blocks on the way to where the deletion of a subvolume
// stopped. What is left of the way, down to the drop level, is gone; such a
// block belongs to the dead subvolume alone, so no other tree's view of it
// matters.
type dropPaths struct {
	mu sync.Mutex
	at map[disk.Logical]treeRoot
}

func (d *dropPaths) get(a disk.Logical) (treeRoot, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.at[a]
	return r, ok
}

func (d *dropPaths) put(a disk.Logical, r treeRoot) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.at[a] = r
}
