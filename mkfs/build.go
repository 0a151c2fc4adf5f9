package mkfs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/compress"
)

// maker is one run of Make.
type maker struct {
	plan    *plan
	tree    *tree
	subvols []*subvolume
	devices []*device
	layout  *layout
	compact bool
	bounds  bounds

	w      *writer
	data   *region
	system *nodeStore
	meta   *nodeStore
	asm    *assembler
	roots  []treeRoot // of what is finished before the tail
	result *Result
}

// Make makes a filesystem on devices. They are numbered in their order, from 1. On
// an error or when ctx ends there is no valid superblock on any of them, if
// anything was written at all.
func Make(ctx context.Context, devs []blockdev.Device, o Options) (*Result, error) {
	if !o.Force {
		for _, d := range devs {
			if err := refuseUsed(d); err != nil {
				return nil, err
			}
		}
	}
	m, err := prepare(ctx, len(devs), o, nil)
	if err != nil {
		return nil, err
	}
	defer m.tree.close() //nolint:errcheck // opened for reading
	return m.make(ctx, devs)
}

// prepare does everything that touches no device: it checks the options and lists
// the source. Files that are the devices themselves are left out of it.
func prepare(ctx context.Context, devices int, o Options, own map[fileKey]bool) (_ *maker, err error) {
	if devices == 0 {
		return nil, errors.New("no device to make a filesystem on")
	}
	m := &maker{result: &Result{}}
	if m.plan, err = newPlan(o, devices); err != nil {
		return nil, &OptionError{err}
	}
	m.tree = newTree(inode{mode: modeDir | 0o755, sec: noTime})
	defer func() {
		if err != nil {
			m.tree.close() //nolint:errcheck // opened for reading
		}
	}()
	if o.Source != nil {
		f := &filter{mapping: m.plan.changes, workers: runtime.GOMAXPROCS(0), own: own}
		if err := o.Source.load(ctx, m.tree, f); err != nil {
			return nil, err
		}
	}
	if err := m.setSubvolumes(); err != nil {
		return nil, &OptionError{err}
	}
	if err := m.plan.changes.checkPaths(m.tree); err != nil {
		return nil, &OptionError{err}
	}
	if err := m.tree.number(m.subvols); err != nil {
		return nil, err
	}
	if err := m.plan.identify(m.tree); err != nil {
		return nil, err
	}
	m.bounds = m.tree.bounds(m.plan)
	return m, nil
}

// setSubvolumes finds the directories that become subvolumes or get flags.
func (m *maker) setSubvolumes() error {
	m.subvols = []*subvolume{{id: disk.TreeFS}}
	if len(m.plan.Subvolumes) == 0 && len(m.plan.Flags) == 0 {
		return nil
	}
	m.tree.makeIndex()
	list := slices.Clone(m.plan.Subvolumes)
	for i := range list {
		list[i].Path = strings.Trim(path.Clean("/"+list[i].Path), "/")
	}
	slices.SortFunc(list, func(a, b Subvolume) int { return cmp.Compare(a.Path, b.Path) })
	byPath := map[string]uint16{}
	for i, v := range list {
		if v.Default && m.subvols[0].isDflt {
			return errors.New("two default subvolumes")
		}
		id, at, ok := m.tree.find(v.Path)
		switch {
		case !ok:
			return fmt.Errorf("subvolume %q is not in the source", v.Path)
		case at == 0:
			return fmt.Errorf("subvolume %q: the top is one already", v.Path)
		case !m.tree.inodes[id].isDir():
			return fmt.Errorf("subvolume %q is not a directory", v.Path)
		case m.tree.names[at].subvol != 0:
			return fmt.Errorf("subvolume %q is named twice", v.Path)
		}
		k := uint16(len(m.subvols))
		s := &subvolume{id: disk.FirstFreeObjectID + disk.ObjectID(i), top: id, path: v.Path, readOnly: v.ReadOnly, isDflt: v.Default, at: at}
		for p := path.Dir(v.Path); p != "."; p = path.Dir(p) {
			if up, ok := byPath[p]; ok {
				s.parent = up
				break
			}
		}
		m.tree.names[at].subvol = k
		byPath[v.Path] = k
		m.subvols = append(m.subvols, s)
		if v.Default {
			m.subvols[0].isDflt = true
		}
	}
	m.subvols[0].isDflt = false
	if slices.ContainsFunc(m.subvols, func(s *subvolume) bool { return s.isDflt }) {
		m.plan.features.incompat |= disk.IncompatDefaultSubvol
	}
	return m.setFlags()
}

func (m *maker) setFlags() error {
	for _, f := range m.plan.Flags {
		id, _, ok := m.tree.find(f.Path)
		if !ok {
			return fmt.Errorf("inode flags for %q, which is not in the source", f.Path)
		}
		if f.NoDataCow {
			m.tree.inodes[id].flags |= flagNoDataCow
		}
		if f.NoDataSum {
			m.tree.inodes[id].flags |= flagNoDataSum
		}
	}
	return nil
}

// bounds is what a tree can need at most, or about.
type bounds struct {
	files uint64 // regular files with contents
	bytes uint64 // of contents
	data  uint64 // at most so many bytes of data extents
	meta  uint64 // about so many bytes of metadata
}

func (t *tree) bounds(p *plan) (b bounds) {
	const perInode, perName = 160 + 25 + 25 + 78 + 10, 2*(30+25) + 3*16
	for k := range t.inodes {
		i := &t.inodes[k]
		b.meta += perInode
		if !i.isRegular() || i.size == 0 {
			continue
		}
		b.files++
		b.bytes += uint64(i.size)
		if i.size <= maxInline {
			b.meta += uint64(i.size)
			continue
		}
		n := roundUp(uint64(i.size), sectorSize)
		b.data += n
		b.meta += n / sectorSize * uint64(p.Csum.Size())
		if p.spec.Algorithm != disk.CompressNone {
			b.meta += n / compress.MaxUncompressed * 160
		} else {
			b.meta += n/maxExtent*160 + 80
		}
	}
	b.meta += uint64(len(t.names)) * perName
	for _, xs := range t.xattrs {
		for _, x := range xs {
			b.meta += 55 + uint64(len(x.name)+len(x.value))
		}
	}
	b.meta += b.meta/8 + 16*uint64(p.format.size)
	return b
}

// raw is how many device bytes hold n logical ones.
func raw(p *disk.Profile, devices int, n uint64) uint64 {
	if p.Parity > 0 {
		return n * uint64(devices) / uint64(devices-p.Parity)
	}
	return n * uint64(p.Copies)
}

// make does the work.
func (m *maker) make(ctx context.Context, devs []blockdev.Device) (*Result, error) {
	if err := m.setDevices(devs); err != nil {
		return nil, err
	}
	for _, d := range devs {
		if err := clearDevice(d, !m.plan.NoDiscard); err != nil {
			return nil, fmt.Errorf("clear %s: %w", d.Name(), err)
		}
	}
	if err := m.populate(ctx); err != nil {
		return nil, m.explain(err)
	}
	return m.result, nil
}

// explain adds to an error about space how much would be enough.
func (m *maker) explain(err error) error {
	if !errors.Is(err, ErrNoSpace) {
		return err
	}
	return &SizeError{Have: m.layout.totalBytes(), Need: m.need(), Err: err}
}

// need is a total size that is enough.
func (m *maker) need() uint64 {
	n := len(m.devices)
	need := uint64(n)*2*mib + raw(m.plan.metadata, n, 8*mib)
	need += raw(m.plan.metadata, n, max(32*mib, m.bounds.meta*5/4)) + raw(m.plan.data, n, max(8*mib, m.bounds.data*33/32))
	return roundUp(need, mib)
}

func (m *maker) setDevices(devs []blockdev.Device) error {
	for i, d := range devs {
		size := uint64(max(d.Size(), 0))
		if m.plan.ByteCount != 0 {
			if m.plan.ByteCount > size {
				return fmt.Errorf("%s has %d bytes, not %d", d.Name(), size, m.plan.ByteCount)
			}
			size = m.plan.ByteCount
		}
		v := &device{dev: d, id: disk.DevID(i + 1), size: size &^ (sectorSize - 1)}
		v.uuid = derive(m.plan.UUID[:], fmt.Sprint("device ", v.id))
		if len(m.plan.DeviceUUIDs) > 0 {
			v.uuid = m.plan.DeviceUUIDs[i]
		}
		m.devices = append(m.devices, v)
	}
	m.layout = newLayout(m.devices, uint64(m.plan.format.size))
	n := len(devs)
	want := raw(m.plan.data, n, m.bounds.data) + raw(m.plan.metadata, n, m.bounds.meta)
	m.compact = m.plan.Shrink || (m.plan.Source != nil && want > m.layout.totalBytes()/10*6)
	m.layout.compact = m.compact
	return nil
}

// chunkTreeNodes is room enough for the chunk tree of a compact filesystem, and for a
// copy of it, which is what a change of it needs. Linux makes another system chunk
// where it finds less than it would like, so there is nothing to be gained by more.
func (m *maker) chunkTreeNodes() uint64 {
	n := uint64(len(m.devices))
	chunks := 12 + (m.bounds.data+m.plan.Free)/gib + (m.bounds.meta+m.plan.Free/bytesPerMetadata)/(256*mib)
	items := chunks*(disk.ItemHeaderSize+48+32*2*n) + n*(disk.ItemHeaderSize+98)
	return 2 * (2 + items/(uint64(m.plan.format.size)/2))
}

// regions makes the first chunks.
func (m *maker) regions(w *writer) error {
	p := m.plan
	node := uint64(p.format.size)
	sysOrder := chunkOrder{flags: p.systemFlags(), maxStripe: 8 * mib}
	if m.compact {
		sysOrder.maxStripe = roundUp(m.chunkTreeNodes()*node, disk.StripeLen)
	}
	sys := &region{l: m.layout, order: sysOrder, spare: node}
	if p.mixed {
		sys.order.flags = disk.BlockGroupSystem | p.metadata.Flag
	}
	if err := sys.grow(); err != nil {
		return err
	}
	m.system = &nodeStore{region: sys, size: p.format.size, w: w}
	m.meta = &nodeStore{size: p.format.size, w: w, keys: !p.features.skinny()}
	meta := &region{l: m.layout, order: chunkOrder{flags: p.metadataFlags(), minLength: 4 * node}, spare: node}
	m.data = &region{l: m.layout, order: chunkOrder{flags: p.dataFlags()}}
	switch {
	case m.compact:
		m.data.order.maxLength = m.bounds.data + m.plan.room()
		m.data.grown = func(c *chunk) {
			m.data.order.maxLength = max(m.data.order.maxLength-min(m.data.order.maxLength, c.Length), disk.StripeLen)
		}
		meta.virtual = true
		data := m.bounds.data + m.plan.room()
		meta.base = disk.Logical(roundUp(m.layout.nextLogical+data+data/32, gib) + gib)
		m.meta.spill = &spill{}
	default:
		if err := meta.grow(); err != nil {
			return err
		}
		if p.mixed {
			m.data = meta
		}
	}
	m.meta.region = meta
	return nil
}

// populate writes everything but the superblocks, then those.
func (m *maker) populate(ctx context.Context) error {
	work, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	workers := runtime.GOMAXPROCS(0)
	m.w = newWriter(m.devices, workers, cancel)
	closed := false
	defer func() {
		if !closed {
			m.w.close()
		}
	}()
	if err := m.regions(m.w); err != nil {
		return err
	}
	if m.meta.spill != nil {
		defer m.meta.spill.close() //nolint:errcheck // only a temporary file
	}
	if err := m.stream(work, cancel, workers); err != nil {
		return err
	}
	t, err := m.finishLayout()
	if err != nil {
		return err
	}
	m.layout = t.l
	m.devices = t.l.devices
	roots, err := t.write()
	if err != nil {
		return err
	}
	m.system.flush()
	m.meta.flush()
	closed = true
	m.w.close()
	if err := context.Cause(work); err != nil {
		return err
	}
	if err := m.unspill(ctx); err != nil {
		return err
	}
	if err := m.writeParity(ctx); err != nil {
		return err
	}
	m.count()
	return m.writeSupers(ctx, roots)
}

// stream reads the source and packs the trees of files and what else does not
// depend on the layout.
func (m *maker) stream(ctx context.Context, cancel context.CancelCauseFunc, workers int) error {
	r := &reader{t: m.tree, csum: m.plan.Csum}
	if m.plan.spec.Algorithm != disk.CompressNone {
		e, err := compress.NewEncoder(m.plan.spec, sectorSize)
		if err != nil {
			return err
		}
		r.encoder = e
	}
	order := make(chan *job, jobsAhead*workers)
	m.asm = &assembler{
		plan: m.plan, t: m.tree, pool: &r.pool, data: m.data, nodes: m.meta, w: m.w, jobs: order, stats: m.result,
		csums: newCsumPacker(&m.plan.format, m.meta), report: m.reporter(),
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.run(ctx, m.subvols, workers, order)
	}()
	err := m.pack(ctx)
	if err != nil {
		cancel(err)
	}
	for j := range order { // drain, so that run ends
		_ = j
	}
	<-stopped
	return err
}

// pack packs the trees that need no knowledge of the layout.
func (m *maker) pack(ctx context.Context) error {
	add := func(r treeRoot, err error) error {
		m.roots = append(m.roots, r)
		return err
	}
	for _, s := range m.subvols {
		if err := add(m.asm.subvolumeTree(ctx, m.subvols, s)); err != nil {
			return err
		}
	}
	m.asm.release()
	if err := add(m.asm.csums.finish()); err != nil {
		return err
	}
	if err := add(m.packItems(disk.TreeUUID, uuidItems(m.plan, m.subvols))); err != nil {
		return err
	}
	return add(m.packItems(disk.TreeDataReloc, relocItems(m.plan)))
}

func (m *maker) packItems(owner disk.ObjectID, list []item) (treeRoot, error) {
	p := newPacker(&m.plan.format, m.meta, owner)
	for _, i := range list {
		if err := p.addBytes(i.key, i.data); err != nil {
			return treeRoot{}, err
		}
	}
	return p.finish()
}

// reporter makes the function that counts progress.
func (m *maker) reporter() func(files, bytes uint64) {
	p := Progress{TotalFiles: m.bounds.files, TotalBytes: m.bounds.bytes}
	return func(files, bytes uint64) {
		p.Files += files
		p.Bytes += bytes
		if m.plan.Progress != nil && (p.Files%256 == 0 || bytes >= pieceSize || p.Files == p.TotalFiles) {
			m.plan.Progress(p)
		}
	}
}
