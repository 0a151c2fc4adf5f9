//go:build linux

// Command verify measures `gobtrfs check --verify-data` and `gobtrfs scrub`
// against what bounds them, reading the data and computing its checksums, and
// against `btrfs check --check-data-csum`. It prints a table in Markdown for each
// checksum. It needs root, btrfs-progs, a kernel with btrfs, and room for an image.
//
// All take turns in every round, and medians count. The image is in memory (a
// tmpfs) and has been read once before. Three limits are measured:
//
//   - dd bs=1M of as many bytes to /dev/null: one process on one CPU
//   - the same bytes read by as many goroutines as there are CPUs
//   - the checksums of the same bytes, already in memory, by as many goroutines,
//     with the functions that gobtrfs uses; reading them is not timed
//
// The last two run within this program, so they have no start of a process in
// them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gobtrfs/disk"
)

func main() {
	var b bench
	var others, sums string
	flag.StringVar(&b.gobtrfs, "gobtrfs", "bin/gobtrfs", "the command to measure")
	flag.StringVar(&b.dir, "dir", "/dev/shm", "where the image goes")
	flag.Int64Var(&b.mib, "mib", 1024, "MiB of data")
	flag.IntVar(&b.runs, "runs", 5, "rounds")
	flag.StringVar(&others, "others", "btrfs", "other btrfs commands, separated by commas")
	flag.StringVar(&sums, "csum", "crc32c,xxhash,sha256,blake2", "checksums")
	flag.Parse()
	b.others = strings.FieldsFunc(others, func(r rune) bool { return r == ',' })
	for _, sum := range strings.Split(sums, ",") {
		if err := b.csum(context.Background(), os.Stdout, sum); err != nil {
			fmt.Fprintln(os.Stderr, "verify:", err)
			os.Exit(1)
		}
	}
}

var csumTypes = map[string]disk.CsumType{
	"crc32c": disk.CsumCRC32C, "xxhash": disk.CsumXXHash, "sha256": disk.CsumSHA256, "blake2": disk.CsumBLAKE2b,
}

type bench struct {
	gobtrfs, dir string
	others       []string
	mib          int64
	runs         int
}

// sample is one run.
type sample struct{ wall, cpu time.Duration }

// contestant is something that is measured.
type contestant struct {
	name string
	run  func() (sample, error)
	all  []sample
}

func (b *bench) csum(ctx context.Context, w io.Writer, sum string) (err error) {
	t, ok := csumTypes[sum]
	if !ok {
		return fmt.Errorf("checksum %q", sum)
	}
	work, err := os.MkdirTemp(b.dir, "gobtrfs-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	image := filepath.Join(work, "image")
	if err := b.makeImage(ctx, image, filepath.Join(work, "mnt"), sum); err != nil {
		return err
	}
	l, err := newLimits(image, t, b.mib<<20)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	list := b.contestants(ctx, image, l)
	for i := range b.runs + 1 {
		for c := range list {
			s, err := list[c].run()
			if err != nil {
				return fmt.Errorf("%s: %w", list[c].name, err)
			}
			if i > 0 { // the first round warms the caches
				list[c].all = append(list[c].all, s)
			}
		}
	}
	b.print(w, sum, list)
	return nil
}

// dataStart is behind what mkfs.btrfs puts first: from here on nearly all of the
// image is data.
const dataStart = 16 << 20

func (b *bench) contestants(ctx context.Context, image string, l *limits) []contestant {
	list := []contestant{
		{name: "dd bs=1M", run: command(ctx, "dd", "if="+image, "of=/dev/null", "bs=1M", fmt.Sprint("skip=", dataStart>>20), fmt.Sprint("count=", b.mib))},
		{name: fmt.Sprintf("reading with %d CPUs", l.workers), run: l.read},
		{name: fmt.Sprintf("checksums with %d CPUs", l.workers), run: l.sums},
		{name: "gobtrfs check --verify-data", run: command(ctx, b.gobtrfs, "check", "--verify-data", image)},
		{name: "gobtrfs check", run: command(ctx, b.gobtrfs, "check", image)},
		{name: "gobtrfs scrub", run: command(ctx, b.gobtrfs, "scrub", image)},
	}
	for _, o := range b.others {
		version, err := exec.CommandContext(ctx, o, "version").Output()
		if err != nil {
			version = []byte(o)
		}
		name, _, _ := strings.Cut(string(version), "\n")
		list = append(list, contestant{name: name + " --check-data-csum", run: command(ctx, o, "check", "--readonly", "--check-data-csum", image)})
	}
	return list
}

// command measures a process.
func command(ctx context.Context, name string, args ...string) func() (sample, error) {
	return func() (sample, error) {
		cmd := exec.CommandContext(ctx, name, args...)
		start := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			return sample{}, fmt.Errorf("%w: %s", err, out)
		}
		return sample{wall: time.Since(start), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}, nil
	}
}

// makeImage makes a filesystem with one file of random bytes.
func (b *bench) makeImage(ctx context.Context, image, mnt, sum string) error {
	script := `truncate -s "$3M" "$1"; mkfs.btrfs -q -m single --csum "$4" "$1"; mkdir "$2"; mount -o loop,noatime "$1" "$2"
head -c "$5M" /dev/urandom > "$2/data" && sync "$2/data" || { umount "$2"; exit 1; }
umount "$2"`
	out, err := exec.CommandContext(ctx, "bash", "-euc", script, "bash", image, mnt, fmt.Sprint(b.mib+512), sum, fmt.Sprint(b.mib)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make the image: %w: %s", err, out)
	}
	return nil
}

func (b *bench) print(w io.Writer, sum string, list []contestant) {
	fmt.Fprintf(w, "\n| %s, %d MiB | time | processor time |\n|---|---|---|\n", sum, b.mib)
	wall := make([]float64, len(list))
	for i, c := range list {
		wall[i] = median(c.all, func(s sample) float64 { return s.wall.Seconds() })
		cpu := median(c.all, func(s sample) float64 { return s.cpu.Seconds() })
		fmt.Fprintf(w, "| %s | %.3f s | %.3f s |\n", c.name, wall[i], cpu)
	}
	dd, all, sums := wall[0], wall[1], wall[2]
	fmt.Fprintf(w, "\n%s: check --verify-data takes %.2f times the slower of dd and checksums, %.2f times the slower of parallel reading and checksums.\n",
		sum, wall[3]/max(dd, sums), wall[3]/max(all, sums))
}

func median(s []sample, f func(sample) float64) float64 {
	v := make([]float64, len(s))
	for i := range s {
		v[i] = f(s[i])
	}
	slices.Sort(v)
	return v[len(v)/2]
}
