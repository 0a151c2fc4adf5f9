package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"gobtrfs"
)

// edit is one editing verb: as a command of its own and as a line of a batch.
type edit struct {
	use         string // arguments behind IMAGE
	short, long string
	least, most int // arguments behind IMAGE; most < 0: any number
	// prepare declares the verb's flags and returns what it does with its
	// arguments. The flags are read when that is called.
	prepare func(f *pflag.FlagSet) editFunc
}

type editFunc func(ctx context.Context, t *editTarget, args []string) error

// editTarget is the filesystem that is being edited.
type editTarget struct {
	*btrfs.Editor
	a     *app
	batch bool // arguments come from a file, so standard input is not ours to read
}

// edits are the editing verbs by name.
var edits = map[string]edit{
	"put": putEdit, "mkdir": mkdirEdit, "rm": rmEdit, "mv": mvEdit, "ln": lnEdit, "cp": cpEdit, "chmod": chmodEdit,
	"chown": chownEdit, "truncate": truncateEdit, "setxattr": setxattrEdit, "fallocate": fallocateEdit,
	"subvolume create": subvolumeCreateEdit, "subvolume snapshot": subvolumeSnapshotEdit, "subvolume delete": subvolumeDeleteEdit,
	"subvolume set-default": subvolumeSetDefaultEdit, "subvolume read-only": subvolumeReadOnlyEdit,
}

const editHelp = `
Of an image that is not mounted all of it is one transaction: when the command fails
or is interrupted, or the machine goes down, either everything has happened or
nothing. Only what is too large for one transaction is made durable piece by
piece, and so is what comes before a snapshot; an error then says so. Of a mounted image (or directory in a mount) the mount's server does it,
each edit by itself. Paths in the image start at "/"; symbolic links in them are not followed.`

// check says whether there are as many arguments as the verb takes.
func (e *edit) check(n int) error {
	switch {
	case n < e.least:
		return usagef("too few arguments: want %s", e.use)
	case e.most >= 0 && n > e.most:
		return usagef("too many arguments: want %s", e.use)
	}
	return nil
}

func newEditVerb(a *app, name string) *cobra.Command {
	e := edits[name]
	var image imageFlags
	cmd := &cobra.Command{
		Use:   strings.TrimSpace(name[strings.LastIndexByte(name, ' ')+1:] + " IMAGE " + e.use),
		Short: e.short,
		Long:  e.long + "\n" + editHelp,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("no image is named")
			}
			return e.check(len(args) - 1)
		},
	}
	run := e.prepare(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return image.edit(cmd.Context(), a, args[0], func(ctx context.Context, t *editTarget) error {
			return run(ctx, t, args[1:])
		})
	}
	// Where a verb has a flag of the same name, that counts: fallocate's
	// --offset is one in the file.
	var general cobra.Command
	image.registerSubvol(&general)
	cmd.Flags().AddFlagSet(general.Flags())
	return cmd
}

// edit opens an image for writing, runs f, and commits if f succeeds.
func (i *imageFlags) edit(ctx context.Context, a *app, name string, f func(context.Context, *editTarget) error) error {
	return i.change(ctx, a, name, func(m *image) error {
		sub, err := i.subvolume(ctx, m)
		if err != nil {
			return err
		}
		e, err := sub.Edit()
		if err != nil {
			return err
		}
		if m.live != nil {
			// Whether it succeeds or not: some of it may be done.
			defer m.live.srv.Watch(e)()
		}
		return f(ctx, &editTarget{Editor: e, a: a})
	})
}

// change opens an image for writing, runs f, and commits if f succeeds. A
// mount's server, which goes on with the filesystem, lets one verb in at a time.
func (i *imageFlags) change(ctx context.Context, a *app, name string, f func(*image) error) (err error) {
	i.writable = true
	m, err := i.open(ctx, a, name)
	if err != nil {
		return err
	}
	if m.live != nil {
		m.live.mu.Lock()
		defer m.live.mu.Unlock()
	} else {
		before := m.Super().Generation
		defer func() {
			closeErr := m.FS.Close() // waits for a commit under way
			if err != nil && m.Super().Generation != before {
				err = fmt.Errorf("%w; as far as it came it is done", err)
			}
			err = errors.Join(err, closeErr, m.Close())
		}()
	}
	if err := f(m); err != nil {
		return err
	}
	return m.Sync(ctx)
}

// Constructors for commands.go.
func newPutCmd(a *app) *cobra.Command       { return newEditVerb(a, "put") }
func newMkdirCmd(a *app) *cobra.Command     { return newEditVerb(a, "mkdir") }
func newRmCmd(a *app) *cobra.Command        { return newEditVerb(a, "rm") }
func newMvCmd(a *app) *cobra.Command        { return newEditVerb(a, "mv") }
func newLnCmd(a *app) *cobra.Command        { return newEditVerb(a, "ln") }
func newCpCmd(a *app) *cobra.Command        { return newEditVerb(a, "cp") }
func newChmodCmd(a *app) *cobra.Command     { return newEditVerb(a, "chmod") }
func newChownCmd(a *app) *cobra.Command     { return newEditVerb(a, "chown") }
func newTruncateCmd(a *app) *cobra.Command  { return newEditVerb(a, "truncate") }
func newSetxattrCmd(a *app) *cobra.Command  { return newEditVerb(a, "setxattr") }
func newFallocateCmd(a *app) *cobra.Command { return newEditVerb(a, "fallocate") }

func newEditCmd(a *app) *cobra.Command {
	var image imageFlags
	var batch string
	cmd := &cobra.Command{
		Use:   "edit --batch FILE IMAGE",
		Short: "Make many edits in one transaction",
		Long: `edit does what the lines of FILE say ("-" is standard input): each is an editing
verb with its flags and arguments, but without IMAGE. Words are separated by
blanks; 'single' quotes keep everything, "double" quotes keep all but \" and \\.
Empty lines and lines that start with # are skipped.
` + editHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if batch == "" {
				return usagef("--batch is missing")
			}
			var in io.Reader
			if batch == "-" {
				in = a.input(cmd.Context())
			} else {
				f, err := os.Open(a.path(batch))
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			return image.edit(cmd.Context(), a, args[0], func(ctx context.Context, t *editTarget) error {
				t.batch = true
				return runBatch(ctx, t, in)
			})
		},
	}
	cmd.Flags().StringVar(&batch, "batch", "", "read the edits from `FILE`")
	image.registerSubvol(cmd)
	return cmd
}

// maxBatchLine bounds a line of a batch, in bytes.
const maxBatchLine = 1 << 20

func runBatch(ctx context.Context, t *editTarget, in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxBatchLine)
	for n := 1; lines.Scan(); n++ {
		words, err := splitWords(lines.Text())
		if err == nil && len(words) > 0 {
			err = runLine(ctx, t, words)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return lines.Err()
}

func runLine(ctx context.Context, t *editTarget, words []string) error {
	if words[0] == "subvolume" && len(words) > 1 {
		words = append([]string{words[0] + " " + words[1]}, words[2:]...)
	}
	e, ok := edits[words[0]]
	if !ok {
		return usagef("unknown edit %q", words[0])
	}
	flags := pflag.NewFlagSet(words[0], pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	run := e.prepare(flags)
	if err := flags.Parse(words[1:]); err != nil {
		return usageError{err}
	}
	if err := e.check(flags.NArg()); err != nil {
		return err
	}
	return run(ctx, t, flags.Args())
}

// splitWords divides a line of a batch; there is nothing to do in a comment.
func splitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	in, escaped := false, false
	if strings.HasPrefix(strings.TrimSpace(line), "#") {
		return nil, nil
	}
	for _, c := range line {
		switch {
		case escaped:
			if c != '"' && c != '\\' {
				word.WriteByte('\\')
			}
			word.WriteRune(c)
			escaped = false
		case quote == '"' && c == '\\':
			escaped = true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '"' || c == '\'':
			quote, in = c, true
		case c == ' ' || c == '\t':
			if in {
				words = append(words, word.String())
				word.Reset()
				in = false
			}
		default:
			word.WriteRune(c)
			in = true
		}
	}
	if quote != 0 {
		return nil, usagef("a %c is not closed", quote)
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}

// number reads a size: bytes, or with a suffix K, M, G or T (of 1024).
func number(s string) (int64, error) {
	if s == "" {
		return 0, usagef("a size is missing")
	}
	shift := 0
	if i := strings.IndexAny(s, "KMGT"); i > 0 && i == len(s)-1 {
		shift = 10 * (strings.IndexByte("KMGT", s[i]) + 1)
		s = s[:i]
	}
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil || n < 0 || n > (1<<63-1)>>shift {
		return 0, usagef("%q is no size", s)
	}
	return n << shift, nil
}
