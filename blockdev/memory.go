package blockdev

import (
	"maps"
	"slices"
	"sync"
)

const memoryPageSize = 64 << 10

// Memory is a sparse device in memory: bytes never written read as zeros and
// cost nothing. Its zero value is an empty device; use NewMemory.
type Memory struct {
	size int64
	name string

	mu    sync.RWMutex // protects the following; never held across a callback
	pages map[int64]*[memoryPageSize]byte
}

var _ Device = (*Memory)(nil)

// NewMemory is an empty device of size bytes.
func NewMemory(size int64) *Memory {
	return &Memory{size: max(size, 0), name: "memory", pages: make(map[int64]*[memoryPageSize]byte)}
}

// Named sets the name for messages and returns m. Call it before m is shared.
func (m *Memory) Named(name string) *Memory {
	m.name = name
	return m
}

// ReadAt implements io.ReaderAt.
func (m *Memory) ReadAt(p []byte, off int64) (int, error) {
	n, err := clampRead(m.name, off, len(p), m.size)
	m.mu.RLock()
	defer m.mu.RUnlock()
	for done := 0; done < n; {
		pos := off + int64(done)
		in := int(pos % memoryPageSize)
		part := p[done:min(n, done+memoryPageSize-in)]
		if page := m.pages[pos/memoryPageSize]; page != nil {
			copy(part, page[in:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return n, err
}

// WriteAt implements io.WriterAt.
func (m *Memory) WriteAt(p []byte, off int64) (int, error) {
	if err := checkRange(m.name, "write", off, int64(len(p)), m.size); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for done := 0; done < len(p); {
		pos := off + int64(done)
		page := m.pages[pos/memoryPageSize]
		if page == nil {
			page = new([memoryPageSize]byte)
			m.pages[pos/memoryPageSize] = page
		}
		done += copy(page[pos%memoryPageSize:], p[done:])
	}
	return len(p), nil
}

// Discard zeroes the range and frees the pages that lie wholly inside it.
func (m *Memory) Discard(off, n int64) error {
	if err := checkRange(m.name, "discard", off, n, m.size); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n == 0 {
		return nil
	}
	empty := func(i int64) {
		page := m.pages[i]
		from, to := max(off-i*memoryPageSize, 0), min(off+n-i*memoryPageSize, memoryPageSize)
		if from == 0 && to == memoryPageSize {
			delete(m.pages, i)
		} else if page != nil {
			clear(page[from:to])
		}
	}
	first, last := off/memoryPageSize, (off+n-1)/memoryPageSize
	if last-first < int64(len(m.pages)) {
		for i := first; i <= last; i++ {
			empty(i)
		}
		return nil
	}
	for i := range m.pages {
		if i >= first && i <= last {
			empty(i)
		}
	}
	return nil
}

// Clone is an independent copy of the device and its contents.
func (m *Memory) Clone() *Memory {
	m.mu.RLock()
	defer m.mu.RUnlock()
	c := NewMemory(m.size).Named(m.name)
	for i, page := range m.pages {
		p := *page
		c.pages[i] = &p
	}
	return c
}

// Written lists offsets of ranges of n bytes in rising order, the last of which may
// reach behind the device's end: what lies outside them reads as zeros.
func (m *Memory) Written() (offsets []int64, n int64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, i := range slices.Sorted(maps.Keys(m.pages)) {
		offsets = append(offsets, i*memoryPageSize)
	}
	return offsets, memoryPageSize
}

// Size is the size in bytes.
func (m *Memory) Size() int64 { return m.size }

// Sync does nothing: memory is as durable as it gets.
func (m *Memory) Sync() error { return nil }

// Close does nothing; the contents stay readable.
func (m *Memory) Close() error { return nil }

// Name is the name for messages.
func (m *Memory) Name() string { return m.name }
