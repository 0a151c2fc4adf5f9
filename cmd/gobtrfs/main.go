// Command gobtrfs makes, reads and checks btrfs filesystems without a kernel
// module and, where the system allows, without root.
//
// Each verb is a file here: a function newXCmd(*app) that returns its cobra
// command, listed in commands.go. A verb parses flags, calls the library and
// prints; it has no filesystem logic of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
)

func main() {
	// After the first interrupt the handler is gone: a second one ends the
	// process even where cancelling takes its time.
	ctx, stop := signal.NotifyContext(context.Background(), endSignals...)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, programArgs(os.Args), newApp(os.Stdin, os.Stdout, os.Stderr)))
}

// run carries out one command line and returns the exit code.
func run(ctx context.Context, args []string, a *app) int {
	a.argv, a.run = args, run
	root := newRootCmd(a)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if flushErr := a.out.Flush(); err == nil && flushErr != nil {
		err = fmt.Errorf("write standard output: %w", flushErr)
	}
	if err == nil {
		return exitDone
	}
	code := exitCode(err)
	if msg := err.Error(); msg != "" {
		fmt.Fprintf(a.errOut, "gobtrfs: %s\n", msg)
	}
	if code == exitUsage && !errors.As(err, new(forwardedError)) {
		fmt.Fprintln(a.errOut, "Run 'gobtrfs help' or 'gobtrfs VERB --help' for usage.")
	}
	return code
}

func newRootCmd(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "gobtrfs VERB …",
		Short: "Work on btrfs filesystems from userspace",
		Long: `gobtrfs works on btrfs filesystems from userspace: no kernel module, no mount.

IMAGE is an image file or a block device. Name further members of a filesystem
of several devices with --device, or let --scan find them.

Exit codes: 0 done, 1 failed, 2 usage, 3 found damage, 4 no space.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errOut)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	for _, newCmd := range verbs {
		root.AddCommand(newCmd(a))
	}
	markUsageErrors(root)
	return root
}

// markUsageErrors makes a wrong number of arguments, anywhere below cmd, a
// usage error.
func markUsageErrors(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	if cmd.HasSubCommands() && cmd.RunE == nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown verb %q for %q", args[0], cmd.CommandPath())
			}
			return cmd.Help()
		}
		cmd.Args = cobra.ArbitraryArgs
	}
	for _, sub := range cmd.Commands() {
		markUsageErrors(sub)
	}
}
