package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"gobtrfs"
	"gobtrfs/internal/ordered"
)

func newCatCmd(a *app) *cobra.Command {
	var image imageFlags
	cmd := &cobra.Command{
		Use:   "cat IMAGE PATH…",
		Short: "Write files to standard output",
		Long: `cat writes the contents of files to standard output. Symbolic links are followed.
Bytes whose checksum is wrong are never written: the command stops before them.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			m, err := image.open(ctx, a, args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			for _, name := range args[1:] {
				f, err := image.file(ctx, m, name, true)
				if err != nil {
					return err
				}
				if f.Mode().IsDir() {
					return fmt.Errorf("%s: %w", name, syscall.EISDIR)
				}
				if err := catFile(ctx, a.out, f); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
			return nil
		},
	}
	image.registerSubvol(cmd)
	return cmd
}

// Pieces are read and decompressed ahead of the writer.
const (
	catPiece = 1 << 20
	catAhead = 8
)

func catFile(ctx context.Context, w io.Writer, f *btrfs.File) error {
	type piece struct {
		buf *[catPiece]byte
		n   int
		err error
	}
	pool := sync.Pool{New: func() any { return new([catPiece]byte) }}
	return ordered.Run(ctx, max(2, runtime.GOMAXPROCS(0)), catAhead, func(submit func(func() piece) bool) error {
		for off := int64(0); off < f.Size(); off += catPiece {
			if !submit(func() piece {
				buf := pool.Get().(*[catPiece]byte)
				n, err := f.ReadAtContext(ctx, buf[:], off)
				if err == io.EOF {
					err = nil
				}
				return piece{buf, n, err}
			}) {
				break
			}
		}
		return nil
	}, func(p piece) error {
		if _, err := w.Write(p.buf[:p.n]); err != nil {
			return err
		}
		pool.Put(p.buf)
		return p.err
	})
}
