package volume

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"gobtrfs/blockdev"
	"gobtrfs/disk"
	"gobtrfs/internal/csum"
	"gobtrfs/internal/raid6"
)

// nothing is a device that is there and has no bytes.
type nothing struct{ blockdev.Device }

// arrayOf is a volume of one chunk at logical 0 on devices in memory. It skips
// Open: the property tests are about mapping.
func arrayOf(flags disk.BlockGroupFlags, n int, stripeLen uint64, o Options) (*Volume, *chunk, []*blockdev.Memory) {
	p := disk.ProfileOf(flags)
	v := &Volume{events: o.Events}
	v.rows.init()
	sb := &disk.Superblock{SectorSize: 4096, NodeSize: 16384}
	v.super.Store(sb)
	c := disk.ChunkMapping{Logical: 1 << 20, Chunk: disk.Chunk{
		Length: stripeLen * uint64(p.DataStripes(n)), StripeLen: disk.StripeLen, Type: flags | disk.BlockGroupData,
		SectorSize: 4096, SubStripes: uint16(p.SubStripes),
	}}
	var mem []*blockdev.Memory
	for i := range n {
		m := blockdev.NewMemory(8 << 20)
		mem = append(mem, m)
		v.devices = append(v.devices, &device{id: disk.DevID(i + 1), dev: m, name: m.Name(), size: uint64(m.Size())})
		c.Stripes = append(c.Stripes, disk.Stripe{DevID: disk.DevID(i + 1), Offset: uint64(i+1) * 65536})
	}
	m, err := buildMap(sb, []disk.ChunkMapping{c}, func(s *disk.Stripe) *device { return v.devices[s.DevID-1] })
	if err != nil {
		panic(err)
	}
	v.chunks.Store(m)
	return v, &m.chunks[0], mem
}

// judgeBy judges a sector by its crc32c.
func judgeBy(sum []byte) func([]byte) error {
	return func(b []byte) error {
		if csum.Verify(disk.CsumCRC32C, sum, b) {
			return nil
		}
		return errors.New("checksum")
	}
}

// naiveFill writes data to the array the slow, obvious way: stripe element by
// stripe element, from the words of the format and not from locate.
func naiveFill(t rapid.TB, c *chunk, mem []*blockdev.Memory, data []byte) {
	put := func(stripe int, row int, b []byte) {
		if _, err := mem[stripe].WriteAt(b, int64(c.Stripes[stripe].Offset)+int64(row)*disk.StripeLen); err != nil {
			t.Fatal(err)
		}
	}
	n, el := len(c.Stripes), disk.StripeLen
	for i := 0; i*el < len(data); i++ {
		b := data[i*el : min((i+1)*el, len(data))]
		switch c.Type.Profile() {
		case disk.BlockGroupRAID0:
			put(i%n, i/n, b)
		case disk.BlockGroupRAID10:
			put(i%(n/2)*2, i/(n/2), b)
			put(i%(n/2)*2+1, i/(n/2), b)
		case disk.BlockGroupRAID5, disk.BlockGroupRAID6:
			put((i%c.data+i/c.data)%n, i/c.data, b)
		default:
			for s := range n {
				put(s, i, b)
			}
		}
	}
	for row := 0; c.profile.Parity > 0 && row*c.data*el < len(data); row++ {
		var members [][]byte
		for i := range c.data {
			members = append(members, data[(row*c.data+i)*el:(row*c.data+i+1)*el])
		}
		p, q := make([]byte, el), make([]byte, el)
		if err := raid6.Generate(members, p, q); err != nil {
			t.Fatal(err)
		}
		put((c.data+row)%n, row, p)
		if c.profile.Parity == 2 {
			put((c.data+1+row)%n, row, q)
		}
	}
}

func drawArray(t *rapid.T) (flags disk.BlockGroupFlags, stripes int) {
	p := rapid.SampledFrom(disk.Profiles[:]).Draw(t, "profile")
	n := p.DevsMin * p.DevStripes
	if p.DevsMax == 0 {
		n += p.Increment * rapid.IntRange(0, 3).Draw(t, "more devices")
	}
	return p.Flag, n
}

func randomBytes(t *rapid.T, n int) []byte {
	b := make([]byte, n)
	x := rapid.Uint64().Draw(t, "seed")
	for i := range b {
		x = x*6364136223846793005 + 1442695040888963407
		b[i] = byte(x >> 56)
	}
	return b
}

// Whatever the profile and the range, every mirror gives what was written, and
// so it does without as many devices as the profile tolerates.
func TestMirrorsAgreeWithTheNaiveModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		flags, n := drawArray(t)
		v, c, mem := arrayOf(flags, n, uint64(rapid.IntRange(1, 4).Draw(t, "rows"))*disk.StripeLen, Options{})
		data := randomBytes(t, int(c.Length))
		naiveFill(t, c, mem, data)
		for range 8 {
			off := rapid.IntRange(0, len(data)-1).Draw(t, "off")
			size := rapid.IntRange(1, len(data)-off).Draw(t, "size")
			buf := make([]byte, size)
			for m := 1; m <= v.Mirrors(c.Logical); m++ {
				if err := v.ReadMirror(context.Background(), c.Logical+disk.Logical(off), buf, m); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(buf, data[off:off+size]) {
					t.Fatalf("mirror %d of [%d, +%d) differs", m, off, size)
				}
			}
		}
		gone := rapid.Permutation(v.devices).Draw(t, "gone")[:c.profile.Tolerated]
		for _, d := range gone {
			d.dev = nil
		}
		buf := make([]byte, len(data))
		if err := v.ReadData(context.Background(), c.Logical, buf, nil); err != nil || !bytes.Equal(buf, data) {
			t.Fatalf("degraded read: %v", err)
		}
	})
}

// What Write writes can be read at once, every mirror reads it after Sync, and no
// byte outside the range changes: in as many pieces as it may come, and with as
// many devices missing as the profile tolerates.
func TestWriteReachesEveryCopy(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		flags, n := drawArray(t)
		v, c, mem := arrayOf(flags, n, 2*disk.StripeLen, Options{})
		data := randomBytes(t, int(c.Length))
		naiveFill(t, c, mem, data)
		ctx, buf := context.Background(), make([]byte, len(data))
		write := func() {
			for range rapid.IntRange(1, 5).Draw(t, "pieces") {
				off := rapid.IntRange(0, len(data)/4096-1).Draw(t, "off") * 4096
				size := rapid.IntRange(1, (len(data)-off)/4096).Draw(t, "size") * 4096
				fresh := randomBytes(t, size)
				if err := v.Write(ctx, c.Logical+disk.Logical(off), fresh); err != nil {
					t.Fatal(err)
				}
				copy(data[off:], fresh)
				if rapid.IntRange(0, 3).Draw(t, "sync") == 0 {
					if err := v.Sync(); err != nil {
						t.Fatal(err)
					}
				}
			}
			at := rapid.IntRange(0, len(data)-1).Draw(t, "at")
			part := make([]byte, rapid.IntRange(1, len(data)-at).Draw(t, "part"))
			if err := v.ReadMirror(ctx, c.Logical+disk.Logical(at), part, 1); err == nil && !bytes.Equal(part, data[at:at+len(part)]) {
				t.Fatal("what was written is not what is read")
			}
			if err := v.Sync(); err != nil {
				t.Fatal(err)
			}
			if v.rows.count.Load() != 0 || len(v.rows.waiting)+len(v.rows.writing)+len(v.rows.order)+v.rows.bytes != 0 {
				t.Fatal("something waits after Sync")
			}
		}
		write()
		for m := 1; m <= c.mirrors(); m++ {
			if err := v.ReadMirror(ctx, c.Logical, buf, m); err != nil || !bytes.Equal(buf, data) {
				t.Fatalf("mirror %d after the write: %v", m, err)
			}
		}
		for _, d := range rapid.Permutation(v.devices).Draw(t, "gone")[:c.profile.Tolerated] {
			d.dev = nil
		}
		write()
		if err := v.ReadData(ctx, c.Logical, buf, nil); err != nil || !bytes.Equal(buf, data) {
			t.Fatalf("degraded read after the degraded write: %v", err)
		}
	})
}

// Before parity is computed anew, damage of the other members is found and
// mended: with the new parity every member can still be rebuilt. Without that
// the write would make the damage final.
func TestWriteMendsItsRow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		flags := rapid.SampledFrom([]disk.BlockGroupFlags{disk.BlockGroupRAID5, disk.BlockGroupRAID6}).Draw(t, "profile")
		n := rapid.IntRange(disk.ProfileOf(flags).Parity+2, 6).Draw(t, "devices")
		v, c, mem := arrayOf(flags, n, disk.StripeLen, Options{})
		data := randomBytes(t, int(c.Length))
		naiveFill(t, c, mem, data)
		want := bytes.Clone(data)
		v.SetCommitted(func(_ context.Context, l disk.Logical, buf []byte) error {
			copy(buf, want[l-c.Logical:]) // as if by checksum, from another mirror
			return nil
		})
		written := rapid.IntRange(0, len(data)/4096-1).Draw(t, "written")
		spoiled := (written*4096 + rapid.IntRange(1, c.data-1).Draw(t, "spoiled")*disk.StripeLen) % len(data)
		s := c.locate(uint64(spoiled), 1)
		if _, err := mem[s.stripe].WriteAt([]byte{data[spoiled] ^ 1}, int64(s.phys)); err != nil {
			t.Fatal(err)
		}
		fresh := randomBytes(t, 4096)
		copy(data[written*4096:], fresh)
		if err := v.Write(context.Background(), c.Logical+disk.Logical(written*4096), fresh); err != nil {
			t.Fatal(err)
		}
		if err := v.Sync(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, len(data))
		for m := 1; m <= c.mirrors(); m++ {
			if err := v.ReadMirror(context.Background(), c.Logical, buf, m); err != nil || !bytes.Equal(buf, data) {
				t.Fatalf("mirror %d after the write: %v", m, err)
			}
		}
	})
}

// Writers of one row, its readers and those who rebuild from it do not get in
// each other's way: run with -race.
func TestConcurrentRowWriters(t *testing.T) {
	v, c, mem := arrayOf(disk.BlockGroupRAID5, 4, 4*disk.StripeLen, Options{})
	data := make([]byte, c.Length)
	naiveFill(t, c, mem, data)
	ctx := context.Background()
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for w := range errs {
		wg.Go(func() {
			buf := make([]byte, 8192)
			for at := w * 8192; at < len(data) && errs[w] == nil; at += len(errs) * 8192 {
				if at == len(data)/2/8192*8192 {
					errs[w] = errors.Join(errs[w], v.Sync())
				}
				part := data[at : at+8192]
				for i := range part {
					part[i] = byte(w + at>>13)
				}
				errs[w] = errors.Join(errs[w], v.Write(ctx, c.Logical+disk.Logical(at), part))
				if err := v.ReadMirror(ctx, c.Logical+disk.Logical(at), buf, 1); err != nil || !bytes.Equal(buf, part) {
					errs[w] = errors.Join(errs[w], err, errors.New("read differs from write"))
				}
				errs[w] = errors.Join(errs[w], v.ReadMirror(ctx, c.Logical+disk.Logical(at), buf, 2))
			}
		})
	}
	wg.Wait()
	if err := errors.Join(append(errs, v.Sync())...); err != nil {
		t.Fatal(err)
	}
	for m := 1; m <= 2; m++ {
		buf := make([]byte, len(data))
		if err := v.ReadMirror(ctx, c.Logical, buf, m); err != nil || !bytes.Equal(buf, data) {
			t.Fatalf("mirror %d: %v", m, err)
		}
	}
}

// A spoiled sector never comes back as good: the right bytes come, or an error
// and zeros; when it is mended the copy is right afterwards.
func TestSpoiledSectors(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		flags, n := drawArray(t)
		var log eventLog
		v, c, mem := arrayOf(flags, n, 2*disk.StripeLen, Options{Events: log.events()})
		mend := rapid.Bool().Draw(t, "mend")
		var suspected []disk.Logical
		if mend {
			v.SetSuspected(func(l disk.Logical, n int) {
				suspected = append(suspected, l)
				if n != 4096 {
					t.Fatalf("%d bytes at %d are suspected", n, l)
				}
			})
		}
		data := randomBytes(t, int(c.Length))
		naiveFill(t, c, mem, data)
		sums := csum.AppendBlocks(nil, disk.CsumCRC32C, data, 4096)
		sector := rapid.IntRange(0, len(data)/4096-1).Draw(t, "sector")
		mirror := rapid.IntRange(1, c.profile.Copies).Draw(t, "mirror")
		s := c.locate(uint64(sector)*4096, mirror)
		if _, err := mem[s.stripe].WriteAt([]byte{data[sector*4096] ^ 1}, int64(s.phys)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, len(data))
		err := v.ReadData(context.Background(), c.Logical, buf, sums)
		if c.mirrors() == 1 {
			var e *CorruptError
			if !errors.As(err, &e) || e.Logical != c.Logical+disk.Logical(sector*4096) || e.Physical != s.phys || e.Dev != disk.DevID(s.stripe+1) {
				t.Fatalf("err = %v, want the corruption at device %d, %d", err, s.stripe+1, s.phys)
			}
			clear(data[sector*4096 : (sector+1)*4096])
		} else if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(buf, data) {
			t.Fatal("wrong bytes came back")
		}
		if c.mirrors() > 1 && len(log.corrupt) != len(log.repaired) {
			t.Fatalf("%d corruptions, %d repaired", len(log.corrupt), len(log.repaired))
		}
		bad := c.Logical + disk.Logical(sector*4096)
		count := disk.DevStats{CorruptionErrs: uint64(len(log.corrupt))}
		if mend && len(suspected) > 0 {
			if suspected[0] != bad {
				t.Fatalf("%d is suspected, %d is bad", suspected, bad)
			}
			r, err := v.Mend(context.Background(), bad, 4096, judgeBy(sums[4*sector:4*sector+4]))
			if (err == nil) != (c.mirrors() > 1) || r.Err != nil {
				t.Fatalf("mend: %+v, %v", r, err)
			}
			count.CorruptionErrs = 1
			if err == nil {
				if r.Rewritten != 1 || len(log.mended) != 1 {
					t.Fatalf("mend: %+v, events %v", r, log.mended)
				}
				if err := v.ReadMirror(context.Background(), c.Logical, buf, mirror); err != nil || !bytes.Equal(buf, data) {
					t.Fatalf("mirror %d after it was mended: %v", mirror, err)
				}
			}
		}
		if got := v.TakeErrors()[disk.DevID(s.stripe+1)]; got != count {
			t.Fatalf("counted %+v, want %+v", got, count)
		}
		if v.Errors() != nil {
			t.Fatal("errors that were taken are still there")
		}
	})
}

// Readers share nothing that is not meant to be shared: run with -race.
func TestConcurrentReaders(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var log eventLog
		v, c, mem := arrayOf(disk.BlockGroupRAID6, 5, 2*disk.StripeLen, Options{Events: log.events()})
		data := randomBytes(t, int(c.Length))
		naiveFill(t, c, mem, data)
		sums := csum.AppendBlocks(nil, disk.CsumCRC32C, data, 4096)
		s := c.locate(0, 1)
		if _, err := mem[s.stripe].WriteAt([]byte{^data[0]}, int64(s.phys)); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		errs := make([]error, 4)
		for i := range errs {
			wg.Go(func() {
				buf := make([]byte, len(data))
				if errs[i] = v.ReadData(context.Background(), c.Logical, buf, sums); errs[i] == nil && !bytes.Equal(buf, data) {
					errs[i] = errors.New("wrong bytes")
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if len(log.repaired) != len(errs) {
			t.Fatalf("%d repairs, want %d", len(log.repaired), len(errs))
		}
	})
}
