package scrub_test

import (
	"os"
	"testing"

	"gobtrfs/disk"
	"gobtrfs/internal/oracle"
	"gobtrfs/internal/volume"
	"gobtrfs/scrub"
)

// TestParityOfWhatIsInUse spoils all parity of a filesystem that has little in
// use. What stands for no data is not wrong; where there is only preallocated
// space nobody can say what is.
func TestParityOfWhatIsInUse(t *testing.T) {
	oracle.Need(t, oracle.Mounting...)
	images := oracle.MkfsN(t, 3, 300*mib, "-m", "raid1", "-d", "raid5")
	m := oracle.Mount(t, "", images...)
	if err := os.WriteFile(m.Dir+"/one", oracle.Noise(1, 4096), 0o644); err != nil {
		t.Fatal(err)
	}
	m.Sync()
	oracle.Run(t, "fallocate", "-l", "8192", m.Dir+"/ahead")
	m.Unmount()
	devs := open(t, images, true)
	v, err := volume.Open(t.Context(), devs, volume.Options{})
	if err != nil {
		t.Fatal(err)
	}
	spoiled := 0
	for _, c := range v.Chunks() {
		at, err := v.Map(c.Logical, c.Length)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range at {
			super := disk.SuperOffset(1)
			if p.Parity != "" && (p.Off > super || p.Off+p.Length <= super) {
				if _, err := devs[p.Dev-1].WriteAt(oracle.Noise(p.Off, int(p.Length)), int64(p.Off)); err != nil {
					t.Fatal(err)
				}
				spoiled++
			}
		}
	}
	for _, tc := range []struct {
		options       scrub.Options
		parity, nosum uint64
	}{{scrub.Options{}, 4096, 8192}, {scrub.Options{Repair: true}, 4096, 8192}, {scrub.Options{}, 0, 8192}} {
		length := make(map[scrub.Kind]uint64)
		tc.options.Problem = func(p scrub.Problem) { length[p.Kind] += p.Length }
		run(t, devs, tc.options)
		if length[scrub.KindParity] != tc.parity || length[scrub.KindParityNoSum] != tc.nosum || len(length) > 2 {
			t.Errorf("repair %v: bytes with problems %v, want %d parity and %d without checksum; %d parity stripes were spoiled", tc.options.Repair, length, tc.parity, tc.nosum, spoiled)
		}
	}
}
