package btrfs_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"gobtrfs"
	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
)

// TestCrashVariants is TestCrashStates on filesystems composed at random: all
// profiles, where what is torn may be a member of a row or its parity, with all
// members there and with one away, when nothing but parity holds the bytes of
// that one; old features; full and simple quotas; log trees.
func TestCrashVariants(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	for seed := *crashSeed; seed < *crashSeed+*crashSeeds; seed++ {
		rnd := rand.New(rand.NewPCG(seed, 11))
		w := drawWorkload(seed, rnd)
		t.Run(fmt.Sprint(seed), func(t *testing.T) { crashStatesOf(t, w, seed, rnd) })
	}
}

// drawWorkload composes a filesystem and what is done with it. Neighbouring
// seeds have different profiles.
func drawWorkload(seed uint64, rnd *rand.Rand) *crashWorkload {
	w := &crashWorkload{}
	if seed%4 == 0 {
		w.variant = newVariant(rnd)
		// Files without copy on write may be torn by a crash: that is what they are.
		w.open.NoDataCow, w.mount = false, ""
	} else {
		w.variant = newArray(arrays[(seed-seed/4-1)%uint64(len(arrays))])
		w.away = rnd.IntN(3) == 0
		if rnd.IntN(4) == 0 {
			w.open.Compress = "zstd:1"
		}
	}
	quota := rnd.IntN(3) == 0
	w.simple = quota && seed%2 == 1
	w.name = fmt.Sprintf("%v, quotas: %v, simple: %v", w.variant, quota, w.simple)
	w.before = func(c *crashRun) error {
		if quota {
			if err := c.f.EnableQuota(c.ctx, w.simple); err != nil {
				return err
			}
		}
		return c.churn(1, 60, c.kinds(w.variant))
	}
	what := rnd.IntN(5)
	if what == 4 {
		w.name, w.size, w.bulky, w.run = w.name+", chunks", 1<<30, true, chunkWorkload
		return w
	}
	w.run = func(c *crashRun) error {
		kinds, fsyncs := c.kinds(w.variant), what%2
		if what == 3 {
			kinds = append(contentOps(), nameOps()...)
		}
		return c.churnAnd(6, 50, kinds, func(gen *opMaker) error {
			// btrfs check dislikes orphans with attributes.
			if err := c.w.release(c.ctx); err != nil || len(gen.live) == 0 || c.rnd.IntN(4) >= fsyncs {
				return err
			}
			return c.fsync(gen.live[c.rnd.IntN(len(gen.live))])
		})
	}
	return w
}

// parity says whether there are groups in RAID5 or RAID6.
func (v *variant) parity() bool {
	s := v.String()
	return strings.Contains(s, "raid5") || strings.Contains(s, "raid6")
}

// kinds are the operations that a variant knows.
func (c *crashRun) kinds(v *variant) []opKind {
	gen := opMaker{rnd: c.rnd, holes: v.holes}
	gen.next()
	return gen.kinds
}

// spareDevices is the number of devices that a filesystem does without.
func spareDevices(t *testing.T, d disks) int {
	t.Helper()
	f, err := btrfs.OpenDevices(t.Context(), d.devices(), btrfs.Options{})
	must(t, err)
	defer f.Close()
	n := len(d) - 1
	for _, c := range f.Store().Volume().Chunks() {
		n = min(n, disk.ProfileOf(c.Type).Tolerated)
	}
	return n
}
