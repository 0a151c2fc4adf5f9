//go:build linux

package mkfs

import (
	"sync"

	"gobtrfs/blockdev"
)

// serial lets one write in at a time.
type serial struct {
	blockdev.Device
	mu sync.Mutex
}

func (s *serial) WriteAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Device.WriteAt(p, off)
}
