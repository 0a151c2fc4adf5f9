//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// imageSize is sparse: what counts is what is written into it.
const imageSize = 6 << 30

func command(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// makeImage lets the kernel make and fill a filesystem.
func makeImage(ctx context.Context, image, mnt, compress string, fill func(context.Context, string) error) error {
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(imageSize), f.Close()); err != nil {
		return err
	}
	if err := command(ctx, "mkfs.btrfs", "-q", image); err != nil {
		return err
	}
	if err := command(ctx, "mount", "-o", "loop,noatime,"+compressOption(compress), image, mnt); err != nil {
		return err
	}
	return errors.Join(fill(ctx, mnt), command(ctx, "umount", mnt))
}

// fillSmall copies the trees that every machine of a Go developer has.
func fillSmall(ctx context.Context, dir string) error {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return err
	}
	return command(ctx, "cp", "-a", strings.TrimSpace(string(out)), "/usr/share", dir)
}

// fillLarge writes 8 files of 256 MiB, half of it compressible.
func fillLarge(_ context.Context, dir string) error {
	r := rand.New(rand.NewPCG(1, 1))
	buf := make([]byte, 1<<20)
	for i := range 8 {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("large%d", i)))
		if err != nil {
			return err
		}
		for range 256 {
			for j := range buf {
				if j&64 == 0 {
					buf[j] = byte(r.Uint32())
				} else {
					buf[j] = "a line of text that comes again and again, as text in logs does\n"[j&63]
				}
			}
			if _, err := f.Write(buf); err != nil {
				return errors.Join(err, f.Close())
			}
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// compressOption forces compression: the kernel would leave files alone whose
// beginning does not compress.
func compressOption(algorithm string) string {
	if algorithm == "no" {
		return "compress=no"
	}
	return "compress-force=" + algorithm
}
