package btrfs_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/check"
	"gobtrfs/internal/oracle"
)

// quotaNumbers are what the qgroups of an image count, one line each.
func quotaNumbers(t *testing.T, image string) []string {
	t.Helper()
	f, err := btrfs.Open(t.Context(), image, btrfs.Options{})
	must(t, err)
	defer f.Close()
	q, err := f.Quota(t.Context())
	must(t, err)
	if q == nil {
		t.Fatal("no quotas")
	}
	if q.Inconsistent {
		t.Error("quotas are inconsistent")
	}
	var out []string
	for _, g := range q.Qgroups {
		out = append(out, fmt.Sprintf("%d/%d %d %d", g.ID>>48, g.ID&(1<<48-1), g.Referenced, g.Exclusive))
	}
	return out
}

// kernelNumbers are what the kernel counts when it counts a copy of the image
// anew.
func kernelNumbers(t *testing.T, image string) []string {
	t.Helper()
	m := oracle.Mount(t, "", oracle.Copy(t, image))
	m.AllowLog("qgroup scan", "a rescan says that it is done")
	oracle.Run(t, "btrfs", "quota", "rescan", "-w", m.Dir)
	out := shownNumbers(t, m)
	m.Unmount()
	return out
}

// shownNumbers are the numbers that the kernel has.
func shownNumbers(t *testing.T, m *oracle.Mounted) (out []string) {
	t.Helper()
	for _, line := range strings.Split(oracle.Run(t, "btrfs", "qgroup", "show", "--raw", m.Dir), "\n") {
		var id string
		var rfer, excl uint64
		if n, _ := fmt.Sscanf(line, "%s %d %d", &id, &rfer, &excl); n == 3 {
			out = append(out, fmt.Sprintf("%s %d %d", id, rfer, excl))
		}
	}
	return out
}

// Random operations on both sides with quotas on: btrfs check compares the
// numbers with the trees, and the kernel counts them anew.
func TestQuotasBesideKernel(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	t.Logf("-edit.seed=%d", *editSeed)
	v := mkfsVariant([]string{"-R", "quota"})
	ours, theirs := v.make(t, 512<<20), v.make(t, 512<<20)
	gen := &opMaker{rnd: rand.New(rand.NewPCG(*editSeed, 4))}
	for round := range *editRounds {
		editRound(t, v, gen, ours, theirs, round)
		if want, got := kernelNumbers(t, ours[0]), quotaNumbers(t, ours[0]); !slices.Equal(want, got) {
			t.Errorf("qgroup, referenced, exclusive:\n%v, the kernel counts\n%v", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
		ours, theirs = theirs, ours
	}
}

// Simple quotas beside the kernel: our check, and a btrfs check that knows them,
// compare the numbers with the owners of the extents, which both sides go on from.
func TestSimpleQuotasBesideKernel(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	t.Logf("-edit.seed=%d", *editSeed)
	v := &variant{devices: 1, flags: true, simple: true}
	ours, theirs := v.make(t, 512<<20), v.make(t, 512<<20)
	for _, image := range []string{ours[0], theirs[0]} {
		f, _ := openWith(t, image, btrfs.Options{})
		must(t, f.EnableQuota(t.Context(), true))
		must(t, f.Sync(t.Context()))
		must(t, f.Close())
	}
	gen := &opMaker{rnd: rand.New(rand.NewPCG(*editSeed, 6))}
	for round := range *editRounds {
		editRound(t, v, gen, ours, theirs, round)
		v.check(t, theirs)
		m := v.mounted(t, ours, "ro")
		if want, got := shownNumbers(t, m), quotaNumbers(t, ours[0]); !slices.Equal(want, got) {
			t.Errorf("qgroup, referenced, exclusive:\n%v, the kernel shows\n%v", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		m.Unmount()
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
		ours, theirs = theirs, ours
	}
}

// checkOurselves has our check compare the numbers with the trees.
func checkOurselves(t *testing.T, image string) {
	t.Helper()
	d, err := blockdev.OpenFile(image, blockdev.FileOptions{ReadOnly: true})
	must(t, err)
	defer d.Close()
	r, err := check.Run(t.Context(), []blockdev.Device{d}, check.Options{VerifyData: true})
	must(t, err)
	for _, f := range r.Findings {
		if f.Severity == check.Error {
			t.Error(f)
		}
	}
}

// What Enable counts, qgroups of higher levels, and simple quotas.
func TestEnableQuota(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	for _, simple := range []bool{false, true} {
		t.Run(fmt.Sprint("simple ", simple), func(t *testing.T) {
			ctx := context.Background()
			image := oracle.Mkfs(t, 512<<20)
			m := mount(t, "", image)
			oracle.Run(t, "cp", "-r", "internal", m.Dir)
			oracle.Run(t, "btrfs", "subvolume", "snapshot", m.Dir, m.Dir+"/snap")
			m.Unmount()
			f, e := openWith(t, image, btrfs.Options{})
			must(t, f.EnableQuota(ctx, simple))
			if err := f.EnableQuota(ctx, simple); !errors.Is(err, syscall.EEXIST) {
				t.Errorf("enabled twice: %v", err)
			}
			const group = 1<<48 | 100
			must(t, f.CreateQgroup(ctx, group))
			_, err := e.CreateSubvolume(ctx, "/vol", btrfs.Attr{Perm: 0o755})
			must(t, err)
			must(t, e.Create(ctx, "/vol/file", btrfs.Attr{Perm: 0o644}))
			_, err = e.WriteAt(ctx, "/vol/file", oracle.Noise(1, 1<<20), 0)
			must(t, err)
			must(t, f.Sync(ctx))
			must(t, f.AssignQgroup(ctx, 5, group))
			must(t, f.Sync(ctx))
			must(t, e.Remove(ctx, "/vol/file"))
			must(t, f.Sync(ctx))
			must(t, f.Close())
			checkOurselves(t, image)
			if simple { // btrfs-progs 6.2 does not know them
				m := mount(t, "", image)
				oracle.Run(t, "cp", "-r", m.Dir+"/internal", m.Dir+"/more")
				oracle.Run(t, "rm", "-r", m.Dir+"/internal")
				m.Unmount()
				checkOurselves(t, image)
				f, e = openWith(t, image, btrfs.Options{})
				must(t, e.RemoveAll(ctx, "/more"))
				must(t, f.Sync(ctx))
				must(t, f.Close())
				checkOurselves(t, image)
			} else {
				judge(t, image)
				if want, got := kernelNumbers(t, image), quotaNumbers(t, image); !slices.Equal(want, got) {
					t.Errorf("qgroup, referenced, exclusive:\n%v, the kernel counts\n%v", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			}

			f, _ = openWith(t, image, btrfs.Options{})
			must(t, f.DisableQuota(ctx))
			must(t, f.Sync(ctx))
			q, err := f.Quota(ctx)
			must(t, err)
			if q != nil {
				t.Error("quotas are still there")
			}
			must(t, f.Close())
			checkOurselves(t, image)
			if !simple {
				judge(t, image)
			}
		})
	}
}

// A limit refuses what would exceed it, before anything is changed, and takes
// what space was given back into account.
func TestQuotaLimit(t *testing.T) {
	ctx := context.Background()
	oracle.Need(t, oracle.Mounting...)
	image := oracle.Mkfs(t, 512<<20, "-R", "quota")
	f, e := openWith(t, image, btrfs.Options{})
	vol, err := e.CreateSubvolume(ctx, "/vol", btrfs.Attr{Perm: 0o755})
	must(t, err)
	limit := uint64(8 << 20)
	must(t, f.LimitQgroup(ctx, uint64(vol), btrfs.QgroupLimits{Referenced: &limit}))
	must(t, e.Create(ctx, "/vol/file", btrfs.Attr{Perm: 0o644}))
	for round := range 2 {
		var n int
		for n = 0; n < 64; n++ {
			if _, err = e.WriteAt(ctx, "/vol/file", oracle.Noise(1, 256<<10), int64(n)<<18); err != nil {
				break
			}
		}
		if !errors.Is(err, syscall.EDQUOT) || n < 24 {
			t.Fatalf("round %d: %d KiB were written: %v", round, n*256, err)
		}
		if _, err := e.WriteAt(ctx, "/elsewhere", oracle.Noise(1, 256<<10), 0); err == nil || errors.Is(err, syscall.EDQUOT) {
			t.Errorf("write of a file that does not exist: %v", err)
		}
		must(t, e.Create(ctx, fmt.Sprint("/free", round), btrfs.Attr{Perm: 0o644}))
		must(t, f.Sync(ctx))
		must(t, e.Truncate(ctx, "/vol/file", 0))
		must(t, f.Sync(ctx))
	}
	must(t, f.Close())
	judge(t, image)
}
