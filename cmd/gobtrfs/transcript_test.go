package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gobtrfs/internal/specimen"
)

var update = flag.Bool("update", false, "rewrite the transcripts with what the command prints")

// A transcript is a file of commands, each followed by what it prints:
//
//	$ ls IMAGE /
//	…what comes on standard output
//	err| …and on standard error
//	exit 1
//
// "exit" stands only where the code is not 0. IMAGE is a filesystem that Linux
// wrote, WORK an empty directory that the transcript's commands share; "#" starts
// a comment. Arguments are separated by spaces and cannot contain any.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("transcripts: %d, %v", len(files), err)
	}
	top, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	raw := specimen.Unclean(t)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			file := filepath.Join(top, file)
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			// Names are relative, so that what is printed is the same everywhere.
			t.Chdir(t.TempDir())
			if err := errors.Join(os.WriteFile("IMAGE", raw, 0o600), os.Mkdir("WORK", 0o700)); err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(want))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("transcript (-want +got):\n%s", diff)
			}
		})
	}
}

// replay carries out a transcript's commands and returns the transcript as it
// should read.
func replay(t *testing.T, text string) string {
	t.Helper()
	var out strings.Builder
	commands := 0
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "#"):
			out.WriteString(line)
		case strings.HasPrefix(line, "$ "):
			commands++
			out.WriteString(line)
			out.WriteString(replayOne(t, strings.Fields(line[2:])))
			out.WriteString("\n")
		}
	}
	if commands == 0 {
		t.Error("the transcript has no command")
	}
	return out.String()
}

func replayOne(t *testing.T, args []string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	var into string // "> FILE" at the end
	if n := len(args); n > 2 && args[n-2] == ">" {
		into, args = args[n-1], args[:n-2]
	}
	code := run(t.Context(), args, newApp(strings.NewReader(""), &stdout, &stderr))
	if into != "" {
		if err := os.WriteFile(into, stdout.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		stdout.Reset()
	}
	var b strings.Builder
	b.WriteString(stdout.String())
	for line := range strings.Lines(stderr.String()) {
		b.WriteString("err| " + line)
	}
	if code != 0 {
		fmt.Fprintf(&b, "exit %d\n", code)
	}
	return b.String()
}
