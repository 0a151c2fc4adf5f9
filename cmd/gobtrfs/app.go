package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"

	"golang.org/x/term"
)

// app is what verbs use in place of the process's standard streams.
type app struct {
	in     io.Reader
	out    *bufio.Writer // run flushes it; write results here
	errOut io.Writer     // messages and the status line; unbuffered

	statusTTY bool // errOut is a terminal

	argv    []string                                             // the command line
	outFile io.Writer                                            // what out writes to
	dir     string                                               // working directory of who asked; "": this process's
	run     func(ctx context.Context, args []string, a *app) int // carries out a command line
	live    *liveMount                                           // set in a server that carries out somebody's verb
}

// outBufferSize makes a listing of many short lines cheap.
const outBufferSize = 64 << 10

func newApp(in io.Reader, out, errOut io.Writer) *app {
	a := &app{in: in, out: bufio.NewWriterSize(out, outBufferSize), errOut: errOut, outFile: out}
	if f, ok := errOut.(*os.File); ok {
		a.statusTTY = term.IsTerminal(int(f.Fd()))
	}
	return a
}

// input is the standard input for verbs that shall end with ctx. Nothing breaks off
// a read from a pipe or a terminal, so that a goroutine does it, which lives until
// the read returns: in a process that was interrupted, to its end. A regular file is
// given as it is, because it can be read in place.
func (a *app) input(ctx context.Context) io.Reader {
	if f, ok := a.in.(*os.File); ok {
		if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() {
			return f
		}
	}
	r, w := io.Pipe()
	go func() {
		_, err := io.Copy(w, a.in)
		w.CloseWithError(err)
	}()
	context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })
	return r
}

// printJSON writes v as one indented JSON document.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printLine writes v as JSON on one line.
func (a *app) printLine(v any) error {
	e := json.NewEncoder(a.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
