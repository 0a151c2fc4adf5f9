package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"gobtrfs"
	"gobtrfs/disk"
)

func newDeviceCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "device VERB …", Short: "Look at the devices of a filesystem"}
	cmd.AddCommand(newDeviceStatsCmd(a))
	return cmd
}

// deviceStatsFlags are the flags of "device stats".
type deviceStatsFlags struct {
	image              imageFlags
	reset, check, json bool
}

func newDeviceStatsCmd(a *app) *cobra.Command {
	var o deviceStatsFlags
	cmd := &cobra.Command{
		Use:   "stats IMAGE",
		Short: "Show the errors that the devices have had",
		Long: `stats shows what the filesystem counts of each device: writes, reads and flushes
that failed, bad copies (checksums, contents), and tree blocks of another
generation, which mostly are writes that the device lost.

--reset sets the numbers to 0 after they were shown. With --check the exit code is
3 unless all are 0.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), a, args[0])
		},
	}
	o.image.register(cmd)
	f := cmd.Flags()
	f.BoolVarP(&o.reset, "reset", "z", false, "set the numbers to 0")
	f.BoolVarP(&o.check, "check", "c", false, "exit with 3 if a number is not 0")
	f.BoolVar(&o.json, "json", false, "print JSON")
	return cmd
}

func (o *deviceStatsFlags) run(ctx context.Context, a *app, name string) error {
	list, err := o.stats(ctx, a, name)
	if err != nil {
		return err
	}
	if err := o.print(a, list); err != nil {
		return err
	}
	for i := range list {
		if o.check && list[i].DevStats != (disk.DevStats{}) {
			return codeError{code: exitDamage}
		}
	}
	return nil
}

// stats reads the numbers, and resets them if that is asked for.
func (o *deviceStatsFlags) stats(ctx context.Context, a *app, name string) (list []btrfs.DeviceStats, err error) {
	if o.reset {
		err = o.image.change(ctx, a, name, func(m *image) error {
			list, err = m.ResetDeviceStats()
			return err
		})
		return list, err
	}
	m, err := o.image.open(ctx, a, name)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	return m.DeviceStats(ctx)
}

type statNumber struct {
	name  string
	value uint64
}

// statNumbers are the numbers by the names that btrfs device stats has.
func statNumbers(d *btrfs.DeviceStats) []statNumber {
	return []statNumber{
		{"write_io_errs", d.WriteErrs}, {"read_io_errs", d.ReadErrs}, {"flush_io_errs", d.FlushErrs},
		{"corruption_errs", d.CorruptionErrs}, {"generation_errs", d.GenerationErrs},
	}
}

func (o *deviceStatsFlags) print(a *app, list []btrfs.DeviceStats) error {
	if !o.json {
		for i := range list {
			for _, n := range statNumbers(&list[i]) {
				fmt.Fprintf(a.out, "[%s].%-16s %d\n", list[i].Name, n.name, n.value)
			}
		}
		return nil
	}
	out := make([]map[string]any, 0, len(list))
	for i := range list {
		d := &list[i]
		o := map[string]any{"device": d.Name, "devid": d.ID, "missing": d.Missing}
		for _, n := range statNumbers(d) {
			o[n.name] = n.value
		}
		out = append(out, o)
	}
	return a.printJSON(map[string]any{"device-stats": out})
}
