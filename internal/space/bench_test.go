package space

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkReserveRelease is the price of a promise nobody has to wait for.
func BenchmarkReserveRelease(b *testing.B) {
	s := newSim(b, simConfig{dataSize: 8 * GiB})
	d, ctx := s.Data(), b.Context()
	b.ReportAllocs()
	for b.Loop() {
		if d.Reserve(ctx, 64*KiB, ClassNormal) != nil {
			b.Fatal("refused")
		}
		d.Release(64 * KiB)
	}
}

// BenchmarkReserveReleaseParallel is the same from many goroutines at once.
func BenchmarkReserveReleaseParallel(b *testing.B) {
	for _, n := range []int{2, 8, 64, 256} {
		b.Run(fmt.Sprint("goroutines=", n), func(b *testing.B) {
			s := newSim(b, simConfig{dataSize: 8 * GiB})
			d, ctx := s.Data(), b.Context()
			var left atomic.Int64
			left.Store(int64(b.N))
			var wg sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for range n {
				wg.Go(func() {
					for left.Add(-64) > -64 {
						for range 64 {
							if d.Reserve(ctx, 64*KiB, ClassNormal) != nil {
								b.Error("refused")
								return
							}
							d.Release(64 * KiB)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "Mpairs/s")
		})
	}
}

// BenchmarkAllocExtent is the way of a tree node: allocate, record, free, and a
// commit every thousand.
func BenchmarkAllocExtent(b *testing.B) {
	s := newSim(b, simConfig{metadata: 1 * GiB})
	m, ctx := s.Metadata(), b.Context()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if m.Reserve(ctx, 16*KiB, ClassNormal) != nil {
			b.Fatal("refused")
		}
		r, err := m.AllocExtent(ctx, ExtentRequest{Want: 16 * KiB})
		s.must(err)
		s.must(s.MarkUsed(r))
		s.must(s.FreeExtent(ctx, r, s.trans))
		if n++; n%1000 == 0 {
			s.commit()
		}
	}
}

// Without waiters a promise allocates nothing.
func TestReserveAllocatesNothing(t *testing.T) {
	s := newSim(t, simConfig{dataSize: GiB})
	d, ctx := s.Data(), t.Context()
	if n := testing.AllocsPerRun(1000, func() {
		_ = d.Reserve(ctx, 4096, ClassNormal)
		d.Release(4096)
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
