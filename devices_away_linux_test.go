package btrfs_test

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"gobtrfs"
	"gobtrfs/internal/manifest"
	"gobtrfs/internal/oracle"
)

var (
	awaySeed   = flag.Uint64("away.seed", 1, "seed of the filesystems whose devices come and go")
	awaySeeds  = flag.Uint64("away.seeds", 2, "seeds, one after the other")
	awayRounds = flag.Int("away.rounds", 1, "rounds of edits of each, with all devices and without some")
)

// redundant are the arrays that do without a device.
func redundant() (specs []string) {
	for _, spec := range arrays {
		if !strings.Contains(spec, "raid0") && !strings.Contains(spec, "single") {
			specs = append(specs, spec)
		}
	}
	return specs
}

// TestDevicesComeAndGo makes random edits on a filesystem beside the kernel.
// Between rounds devices are taken away, and the edits go on without them; then
// what was taken away comes back as it was, and is neither believed nor written,
// or is lost, and a blank device takes its place.
func TestDevicesComeAndGo(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	for seed := *awaySeed; seed < *awaySeed+*awaySeeds; seed++ {
		spec := redundant()[seed%uint64(len(redundant()))]
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Logf("-away.seed=%d: mkfs.btrfs %s", seed, spec)
			a := &awayTest{t: t, seed: seed, rnd: rand.New(rand.NewPCG(seed, 6)), v: newArray(spec)}
			a.gen = &opMaker{rnd: a.rnd, holes: a.v.holes}
			a.ours, a.theirs = a.v.make(t, awayDevice), a.v.make(t, awayDevice)
			for round := range *awayRounds {
				a.round(round)
			}
		})
		if !ok {
			break
		}
	}
}

const awayDevice = 1 << 30

// awayTest is a filesystem of ours and one of the kernel's that hold the same.
type awayTest struct {
	t            *testing.T
	seed         uint64
	rnd          *rand.Rand
	v            *variant
	gen          *opMaker
	ours, theirs []string
}

// round makes edits with all devices, without some, and with all again.
func (a *awayTest) round(n int) {
	t := a.t
	a.edit(a.ours, n)
	spare := tolerated(t, a.v, a.ours)
	if spare < 1 {
		t.Fatal("no device can be done without")
	}
	gone := a.rnd.Perm(len(a.ours))[:1+a.rnd.IntN(min(spare, 2))]
	var rest []string
	for i, image := range a.ours {
		if !slices.Contains(gone, i) {
			rest = append(rest, image)
		}
	}
	if _, err := btrfs.Open(t.Context(), rest[0], a.v.options(rest, true)); err == nil {
		t.Fatal("a set with a missing device opens for writing although nobody asked for that")
	}
	t.Logf("round %d: without devices %v", n, gone)
	a.v.degraded = true
	a.edit(rest, n)
	a.v.degraded = false
	if (a.seed+uint64(n))%2 == 0 {
		a.comeBack(rest, gone, n)
	} else {
		a.replace(rest, gone)
	}
	a.v.judge(t, a.ours)
	a.ours, a.theirs = a.theirs, a.ours
}

func (a *awayTest) edit(ours []string, n int) {
	editRound(a.t, a.v, a.gen, ours, a.theirs, n)
	if a.t.Failed() {
		a.t.Fatalf("round %d", n)
	}
}

// comeBack gives devices back that have missed what was written meanwhile.
func (a *awayTest) comeBack(rest []string, gone []int, n int) {
	t, v := a.t, a.v
	whole := imageManifest(t, rest[0], degradedOptions(v, rest, false))
	if _, err := btrfs.Open(t.Context(), a.ours[0], v.options(a.ours, true)); err == nil {
		t.Fatal("a set with a stale device opens for writing although nobody asked for that")
	}
	oracle.RequireSame(t, whole, imageManifest(t, a.ours[0], v.options(a.ours, false)), manifest.All)
	stale := make(map[int][]byte)
	for _, i := range gone {
		var err error
		stale[i], err = os.ReadFile(a.ours[i])
		must(t, err)
	}
	v.degraded = true
	editBoth(t, v, a.gen, a.ours, a.theirs, n)
	v.degraded = false
	for _, i := range gone {
		if now, err := os.ReadFile(a.ours[i]); err != nil || !bytes.Equal(stale[i], now) {
			t.Fatalf("device %d missed commits and was written: %v", i, err)
		}
	}
	clear(stale)
	whole = imageManifest(t, a.ours[0], v.options(a.ours, false))
	m := v.mounted(t, a.ours)
	m.AllowLog(".", "a stale device is full of errors")
	oracle.RequireSame(t, whole, oracle.HostManifest(t, m.Dir, oracle.HostOptions{}), manifest.All)
	oracle.Run(t, "sh", "-c", "btrfs scrub start -B "+m.Dir+" || true")
	oracle.Scrub(t, m.Dir)
	a.balance(m)
	m.Unmount()
}

// replace has Linux put blank devices in the place of those that are gone.
func (a *awayTest) replace(rest []string, gone []int) {
	t, v := a.t, a.v
	whole := imageManifest(t, rest[0], degradedOptions(v, rest, false))
	blank := oracle.Sparse(t, len(gone), awayDevice)
	all := slices.Clone(a.ours)
	for k, i := range gone {
		all[i] = blank[k]
	}
	// A blank device is nobody's member.
	if _, err := btrfs.Open(t.Context(), rest[0], v.options(append(slices.Clone(rest), blank...), true)); err == nil {
		t.Fatal("a set with a blank device opens for writing although nobody asked for that")
	}
	m := v.mounted(t, rest, "degraded")
	m.AllowLog(".", "the set was mounted degraded on purpose")
	oracle.RequireSame(t, whole, oracle.HostManifest(t, m.Dir, oracle.HostOptions{}), manifest.All)
	oracle.Attached(t, blank, func(loops []string) {
		for k, i := range gone {
			oracle.Run(t, "btrfs", "replace", "start", "-B", "-f", fmt.Sprint(i+1), loops[k], m.Dir)
		}
		// It leaves parity alone where the lost member had nothing in use.
		oracle.Run(t, "sh", "-c", "btrfs scrub start -B "+m.Dir+" || true")
		a.balance(m)
		m.Unmount()
	})
	a.ours = all
}

// balance turns what was written in smaller profiles into the filesystem's own.
func (a *awayTest) balance(m *oracle.Mounted) {
	data, metadata := "", ""
	for i, arg := range a.v.args[:len(a.v.args)-1] {
		switch arg {
		case "-d":
			data = a.v.args[i+1]
		case "-m":
			metadata = a.v.args[i+1]
		}
	}
	oracle.Run(a.t, "btrfs", "balance", "start", "-f", "-dconvert="+data+",soft", "-mconvert="+metadata+",soft", m.Dir)
}
