package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"gobtrfs/internal/lab"
)

// runLab runs "lab" with the given arguments and returns what it prints and
// its exit code.
func runLab(t *testing.T, args ...string) (string, int) {
	t.Helper()
	var out, errOut bytes.Buffer
	code := run(t.Context(), append([]string{"lab"}, args...), newApp(strings.NewReader(""), &out, &errOut))
	return out.String() + errOut.String(), code
}

func TestLabChunkAlloc(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		args []string
		want []string // lines that begin so, spaces squeezed
	}{
		{"a herd", []string{"--callers", "16"}, []string{
			"2013-before 16 16 1 ", "2013-after 16 16 1 ", "a 16 16 1 ", "b 16 16 1 ", "c 16 1 1 ", "6.0 16 1 1 ",
			"ours 16 1 1 1073676288 0 0 ",
		}},
		{"the freeze", []string{"--callers", "16", "--kind", "reserve", "--faults", "enomem@1", "--policy", "2013-before,ours"}, []string{
			"2013-before 16 0 1 0 15 0 for ever 1 ENOMEM, 15 never returns", "ours 16 1 1 ",
		}},
		{"sizes", []string{"--callers", "4", "--burst", "1GiB,512m", "--policy", "ours", "--kind", "reserve"}, []string{"ours 4 3 3 0 0 0 "}},
		{"exploring ours", []string{"--explore", "--policy", "ours", "--callers", "4", "--faults", "enomem@1,cancel@2"}, []string{
			"ours: gobtrfs", "no violation in any schedule",
		}},
		{"exploring 6.0", []string{"--explore", "--policy", "6.0"}, []string{
			"6.0: Linux 6.0", "lost request: FORCE returned 0", "I5: ENOSPC although there is space", " 1. caller 1 finds no 1 bytes and calls for a chunk with FORCE",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			out, code := runLab(t, append([]string{"chunk-alloc"}, c.args...)...)
			if code != exitDone {
				t.Fatalf("exit code %d: %s", code, out)
			}
			var lines []string
			for line := range strings.Lines(out) {
				lines = append(lines, " "+strings.Join(strings.Fields(line), " "))
			}
			squeezed := strings.Join(lines, "\n") + "\n"
			for _, want := range c.want {
				if !strings.Contains(squeezed, " "+strings.TrimLeft(want, " ")) {
					t.Errorf("no line %q in\n%s", want, out)
				}
			}
		})
	}
}

func TestLabJSON(t *testing.T) {
	t.Parallel()
	out, _ := runLab(t, "chunk-alloc", "--json", "--callers", "8", "--seed", "3")
	var os []lab.Outcome
	err := json.Unmarshal([]byte(out), &os)
	if err != nil || len(os) != len(lab.Policies()) || os[len(os)-1].Made != 1 {
		t.Errorf("%v: %s", err, out)
	}
	again, _ := runLab(t, "chunk-alloc", "--json", "--callers", "8", "--seed", "3")
	if again != out {
		t.Error("the same seed gives another run")
	}
	out, _ = runLab(t, "chunk-alloc", "--json", "--explore", "--policy", "ours")
	var es []lab.Exploration
	err = json.Unmarshal([]byte(out), &es)
	if err != nil || len(es) != 1 || !es[0].Complete || es[0].States == 0 {
		t.Errorf("%v: %s", err, out)
	}
}

func TestLabRefuses(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"--policy 9", "--kind odd", "--faults boom@1", "--burst x", "--chunk-size -1", "--burst 2GiB", "--callers 0", "--explore --callers 9", "--chunk-size 99999999T",
	} {
		if out, code := runLab(t, append([]string{"chunk-alloc"}, strings.Fields(args)...)...); code != exitUsage {
			t.Errorf("%s: exit code %d: %s", args, code, out)
		}
	}
	if out, code := runLab(t); code != exitDone || !strings.Contains(out, "chunk-alloc") {
		t.Errorf("help: %d %s", code, out)
	}
}
