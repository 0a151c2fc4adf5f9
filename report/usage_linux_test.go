package report_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"gobtrfs"
	"gobtrfs/internal/oracle"
	"gobtrfs/report"
)

// The numbers are those that btrfs-progs prints for the mounted filesystem.
func TestUsageIsWhatBtrfsProgsPrints(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		devices        int
		data, metadata string
	}{{1, "single", "dup"}, {2, "raid1", "raid1"}, {2, "raid0", "raid1"}, {4, "raid10", "raid1c3"}, {3, "raid5", "raid1c3"}, {4, "raid6", "raid1c4"}} {
		t.Run(tc.data+"-"+tc.metadata, func(t *testing.T) {
			t.Parallel()
			oracle.Need(t, oracle.Mounting...)
			images := oracle.MkfsN(t, tc.devices, 600*mib, "-d", tc.data, "-m", tc.metadata)
			m := oracle.Mount(t, "noatime", images...)
			if err := os.WriteFile(filepath.Join(m.Dir, "f"), oracle.Noise(1, 9*mib), 0o600); err != nil {
				t.Fatal(err)
			}
			m.Sync()
			progs := oracle.Run(t, "btrfs", "filesystem", "usage", "--raw", m.Dir)
			m.Unmount()

			f, err := btrfs.Open(t.Context(), images[0], btrfs.Options{Devices: images[1:]})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			u, err := report.ReadUsage(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range []struct {
				name string
				got  uint64
			}{
				{"Device size", u.DeviceSize}, {"Device allocated", u.Allocated}, {"Device unallocated", u.Unallocated}, {"Device missing", u.Missing},
				{"Device slack", u.Slack}, {"Used", u.UsedRaw}, {"Free (estimated)", u.Free},
			} {
				if want := number(t, progs, `(?m)^\s+`+regexp.QuoteMeta(line.name)+`:\s+(\d+)`); want != line.got {
					t.Errorf("%s: %d, btrfs-progs says %d", line.name, line.got, want)
				}
			}
			if want := number(t, progs, `\(min: (\d+)\)`); want != u.FreeMin {
				t.Errorf("least free: %d, btrfs-progs says %d", u.FreeMin, want)
			}
			checkGroups(t, u, progs)
		})
	}
}

func number(t *testing.T, text, expr string) uint64 {
	t.Helper()
	m := regexp.MustCompile(expr).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in\n%s", expr, text)
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// checkGroups compares lines such as "Data,RAID1: Size:1073741824, Used:9437184".
func checkGroups(t *testing.T, u *report.Usage, progs string) {
	t.Helper()
	if len(u.Groups) == 0 || len(u.Groups) != strings.Count(progs, "Size:") {
		t.Errorf("%d groups, btrfs-progs prints\n%s", len(u.Groups), progs)
	}
	for _, g := range u.Groups {
		head := `(?mi)^` + g.Type + `,` + g.Profile
		if size, used := number(t, progs, head+`: Size:(\d+)`), number(t, progs, head+`: Size:\d+, Used:(\d+)`); size != g.Size || used != g.Used {
			t.Errorf("%s %s: size %d used %d, btrfs-progs says %d and %d", g.Type, g.Profile, g.Size, g.Used, size, used)
		}
	}
}
