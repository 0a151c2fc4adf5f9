package mkfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"gobtrfs/disk"
	"gobtrfs/internal/compress"
	"gobtrfs/internal/csum"
)

// Sizes of the units of work.
const (
	pieceSize  = 1 << 20 // of a large file; a batch of small ones has no more contents
	batchFiles = 512
	maxInline  = 2048      // the kernel's default of the mount option
	maxExtent  = 128 * mib // of plain data
	jobsAhead  = 6         // per worker
)

// Bits of inode.flags.
const (
	flagNoDataCow uint8 = 1 << iota
	flagNoDataSum
)

// job is a batch of small files or a piece of a large one. Jobs are made in
// canonical order, worked on in any order, and taken in canonical order again.
type job struct {
	files []jobFile
	at    int64 // of a piece
	n     int64 // length of a piece; 0 for a batch
	last  bool  // the file's last piece

	out     []byte     // what goes to the data region, whole sectors
	sums    []byte     // a checksum for each sector of out
	extents []jobPiece // of all files, over out
	inline  []byte     // contents of inline extents
	scratch []byte     // contents while they are compressed

	err   error
	ready chan struct{}
	refs  int // users that are left; protected by pool.mu
}

// jobFile is one file of a job.
type jobFile struct {
	id         inodeID
	from, to   int // range of extents
	inline     []byte
	isInline   bool
	inlineComp disk.Compression
	xattrs     []xattr
}

// jobPiece is a stretch of a file that has contents.
type jobPiece struct {
	file   int64 // offset in the file
	ram    int   // bytes of the file, whole sectors
	out, n int   // range of job.out
	comp   disk.Compression
}

// reader reads, compresses and checksums files.
type reader struct {
	t       *tree
	csum    disk.CsumType
	encoder *compress.Encoder // nil: no compression
	pool    jobPool
}

// jobPool recycles jobs with their buffers.
type jobPool struct {
	mu   sync.Mutex
	free []*job // protected by mu
}

func (p *jobPool) get() *job {
	p.mu.Lock()
	defer p.mu.Unlock()
	var j *job
	if n := len(p.free); n > 0 {
		j, p.free = p.free[n-1], p.free[:n-1]
	} else {
		j = &job{out: make([]byte, 0, pieceSize+sectorSize)}
	}
	clear(j.files)
	*j = job{
		files: j.files[:0], out: j.out[:0], sums: j.sums[:0], extents: j.extents[:0], inline: j.inline[:0], scratch: j.scratch[:0],
		ready: make(chan struct{}), refs: 2,
	}
	return j
}

// done says that one of a job's two users, its packing and its writing, is
// through with it.
func (p *jobPool) done(j *job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if j.refs--; j.refs == 0 {
		p.free = append(p.free, j)
	}
}

// plan makes the jobs for all regular files with contents, in canonical order.
func (r *reader) plan(subvols []*subvolume, yield func(*job) bool) {
	var batch *job
	size := int64(0)
	flush := func() bool {
		b := batch
		batch, size = nil, 0
		return b == nil || yield(b)
	}
	for _, s := range subvols {
		for _, id := range s.inodes {
			i := &r.t.inodes[id]
			if !i.isRegular() || i.size == 0 {
				continue
			}
			padded := int64(roundUp(uint64(i.size), sectorSize))
			if i.size > pieceSize {
				if !flush() || !r.planPieces(id, i.size, yield) {
					return
				}
				continue
			}
			if batch != nil && (size+padded > pieceSize || len(batch.files) == batchFiles) && !flush() {
				return
			}
			if batch == nil {
				batch = r.pool.get()
			}
			batch.files = append(batch.files, jobFile{id: id})
			size += padded
		}
	}
	flush()
}

func (r *reader) planPieces(id inodeID, size int64, yield func(*job) bool) bool {
	for at := int64(0); at < size; at += pieceSize {
		j := r.pool.get()
		j.files = append(j.files, jobFile{id: id})
		j.at, j.n = at, min(pieceSize, size-at)
		j.last = at+j.n == size
		if !yield(j) {
			return false
		}
	}
	return true
}

// run makes jobs, has them worked on, and sends them in order. It returns when
// all are sent or ctx ends; the goroutines are gone then.
func (r *reader) run(ctx context.Context, subvols []*subvolume, workers int, order chan<- *job) {
	work := make(chan *job)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() { r.work(work) })
	}
	r.plan(subvols, func(j *job) bool {
		select {
		case order <- j:
		case <-ctx.Done():
			return false
		}
		work <- j
		return true
	})
	close(work)
	wg.Wait()
	close(order)
}

// work does jobs until there are no more.
func (r *reader) work(jobs <-chan *job) {
	sessions := make([]session, len(r.t.openers))
	defer func() {
		for _, s := range sessions {
			if s != nil {
				s.close() //nolint:errcheck // opened for reading
			}
		}
	}()
	for j := range jobs {
		j.err = r.do(j, sessions)
		close(j.ready)
	}
}

func (r *reader) do(j *job, sessions []session) error {
	for k := range j.files {
		f := &j.files[k]
		i := &r.t.inodes[f.id]
		s := sessions[i.from]
		if s == nil {
			s = r.t.openers[i.from].session()
			sessions[i.from] = s
		}
		if err := r.file(j, f, i, s); err != nil {
			return &fileError{r.t.pathOf(f.id), err}
		}
	}
	j.sums = csum.AppendBlocks(j.sums, r.csum, j.out, sectorSize)
	return nil
}

// file reads one file, or one piece of it, into the job.
func (r *reader) file(j *job, f *jobFile, i *inode, s session) error {
	c, err := s.open(r.t, f.id)
	if err != nil {
		return err
	}
	err = r.contents(j, f, i, c)
	return errors.Join(err, c.Close())
}

// holeFinder is a content that knows where its data is.
type holeFinder interface {
	// dataFrom is the first place at or behind at where data may be.
	dataFrom(at int64) int64
}

func (r *reader) contents(j *job, f *jobFile, i *inode, c content) (err error) {
	whole := j.n == 0
	at, n := j.at, j.n
	if whole {
		n = i.size
	}
	if j.at == 0 {
		if f.xattrs, err = c.xattrs(); err != nil {
			return err
		}
		sortXattrs(f.xattrs)
	}
	if h, ok := c.(holeFinder); ok && !whole && h.dataFrom(at) >= at+n {
		f.from, f.to = len(j.extents), len(j.extents)
		if j.last {
			return c.check(i.size)
		}
		return nil
	}
	// Plain contents are read to where they will be written from.
	buf := &j.out
	begin := len(j.out)
	encode := r.encoder != nil && i.flags == 0
	if encode || (whole && n <= maxInline) {
		buf, begin = &j.scratch, 0
	}
	*buf = grow((*buf)[:begin], int(n))
	b := (*buf)[begin : begin+int(n)]
	got, err := c.ReadAt(b, at)
	if got < len(b) {
		if err == io.EOF || err == nil {
			err = fmt.Errorf("%w: it ends at byte %d of %d", ErrChanged, at+int64(got), i.size)
		}
		return err
	}
	if whole || j.last {
		if err := c.check(i.size); err != nil {
			return err
		}
	}
	f.from = len(j.extents)
	switch {
	case whole && r.tryInline(j, f, b, encode):
	case encode:
		r.encode(j, at, b)
	default:
		r.plain(j, at, begin, int(n))
	}
	f.to = len(j.extents)
	return nil
}

// grow makes b n bytes longer, without clearing them.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) < n {
		b = append(make([]byte, 0, max(2*cap(b), len(b)+n)), b...)
	}
	return b[:len(b)+n]
}

// tryInline keeps small contents for the tree.
func (r *reader) tryInline(j *job, f *jobFile, b []byte, encode bool) bool {
	begin := len(j.inline)
	if encode && len(b) <= sectorSize {
		out, ok := r.encoder.CompressInline(j.inline, b)
		if ok && len(out)-begin <= maxInline {
			j.inline = out
			f.isInline, f.inlineComp = true, r.encoder.Spec().Algorithm
			f.inline = out[begin:len(out):len(out)]
			return true
		}
	}
	if len(b) > maxInline {
		return false
	}
	j.inline = append(j.inline, b...)
	f.isInline = true
	f.inline = j.inline[begin:len(j.inline):len(j.inline)]
	return true
}

// plain takes n bytes at begin of out, which is the end of out, as they are.
// Sectors of zeros become holes; what follows them moves up.
func (r *reader) plain(j *job, at int64, begin, n int) {
	padded := int(roundUp(uint64(n), sectorSize))
	j.out = grow(j.out[:begin+n], padded-n)
	clear(j.out[begin+n : begin+padded])
	to := begin
	for off := 0; off < padded; {
		sector := j.out[begin+off : begin+off+sectorSize]
		if isZero(sector) {
			off += sectorSize
			continue
		}
		run := off + sectorSize
		for run < padded && !isZero(j.out[begin+run:begin+run+sectorSize]) {
			run += sectorSize
		}
		if to != begin+off {
			copy(j.out[to:], j.out[begin+off:begin+run])
		}
		j.extents = append(j.extents, jobPiece{file: at + int64(off), ram: run - off, out: to, n: run - off})
		to += run - off
		off = run
	}
	j.out = j.out[:to]
}

// encode compresses b in extents of 128 KiB. Those that do not get smaller by a
// sector stay plain.
func (r *reader) encode(j *job, at int64, b []byte) {
	for len(b) > 0 {
		block := b[:min(len(b), compress.MaxUncompressed)]
		b = b[len(block):]
		begin := len(j.out)
		if isZero(block) {
			at += int64(len(block))
			continue
		}
		ok := false
		if compress.Compressible(block) {
			j.out, ok = r.encoder.Compress(j.out, block)
		}
		if !ok {
			j.out = append(j.out[:begin], block...)
			r.plain(j, at, begin, len(block))
			at += int64(len(block))
			continue
		}
		n := len(j.out) - begin
		padded := int(roundUp(uint64(n), sectorSize))
		j.out = grow(j.out, padded-n)
		clear(j.out[begin+n:])
		j.extents = append(j.extents, jobPiece{
			file: at, ram: int(roundUp(uint64(len(block)), sectorSize)), out: begin, n: padded, comp: r.encoder.Spec().Algorithm,
		})
		at += int64(len(block))
	}
}

var zeros [sectorSize]byte

// isZero says whether b holds nothing but zeros.
func isZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if b[0] != 0 || b[n-1] != 0 || !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}
