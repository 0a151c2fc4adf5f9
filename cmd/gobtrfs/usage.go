package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"gobtrfs/report"
)

func newUsageCmd(a *app) *cobra.Command {
	var image imageFlags
	var u units
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "usage IMAGE",
		Short: "Show how the space is used, in all and for each device",
		Long: `usage prints what 'btrfs filesystem usage -T' prints for a mounted filesystem,
from one that is not mounted: sums, then a table with a line for each device and a
column for each type and profile. The global reserve exists in a running kernel
only, so it is not shown.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			m, err := image.open(ctx, a, args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			r, err := report.ReadUsage(ctx, m.FS)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(usageToJSON(r))
			}
			printOverall(a.out, r, &u)
			fmt.Fprintln(a.out)
			printUsageTable(a.out, r, &u)
			return nil
		},
	}
	image.register(cmd)
	u.register(cmd.Flags())
	cmd.Flags().BoolP("tabular", "T", false, "accepted: the output is a table")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, sizes in bytes")
	return cmd
}

func printOverall(w io.Writer, r *report.Usage, u *units) {
	fmt.Fprintln(w, "Overall:")
	line := func(name, value, note string) {
		fmt.Fprintf(w, "    %-20s %12s%s\n", name, value, note)
	}
	line("Device size:", u.size(r.DeviceSize), "")
	line("Device allocated:", u.size(r.Allocated), "")
	line("Device unallocated:", u.size(r.Unallocated), "")
	line("Device missing:", u.size(r.Missing), "")
	line("Device slack:", u.size(r.Slack), "")
	line("Used:", u.size(r.UsedRaw), "")
	line("Free (estimated):", u.size(r.Free), fmt.Sprintf("\t(min: %s)", u.size(r.FreeMin)))
	line("Data ratio:", fmt.Sprintf("%.2f", r.DataRatio), "")
	line("Metadata ratio:", fmt.Sprintf("%.2f", r.MetadataRatio), "")
	multiple := "no"
	if r.MultipleProfile {
		multiple = "yes"
	}
	line("Multiple profiles:", multiple, "")
}

// printUsageTable prints a row for each device, then the sums.
func printUsageTable(w io.Writer, r *report.Usage, u *units) {
	types, profiles := []string{"", ""}, []string{"Id", "Path"}
	for _, g := range r.Groups {
		types = append(types, g.Type)
		profiles = append(profiles, g.Profile)
	}
	types = append(types, "", "", "")
	profiles = append(profiles, "Unallocated", "Total", "Slack")
	// A type's name spans as many columns as it has profiles.
	for i := len(types) - 1; i > 0; i-- {
		if types[i] != "" && types[i] == types[i-1] {
			types[i] = ""
		}
	}
	rows := [][]string{types, profiles, nil}
	dash := func(n uint64) string {
		if n == 0 {
			return "-"
		}
		return u.size(n)
	}
	for _, d := range r.Devices {
		row := []string{strconv.FormatUint(uint64(d.ID), 10), d.Name}
		for _, n := range d.Raw {
			row = append(row, dash(n))
		}
		rows = append(rows, append(row, dash(d.Unallocated), u.size(d.Size), dash(d.Slack)))
	}
	total, used := []string{"", "Total"}, []string{"", "Used"}
	for _, g := range r.Groups {
		total = append(total, u.size(g.Size))
		used = append(used, u.size(g.Used))
	}
	rows = append(rows, nil, append(total, u.size(r.Unallocated), u.size(r.DeviceSize), u.size(r.Slack)), append(used, "", "", ""))
	printTable(w, rows)
}

// printTable aligns columns; a nil row is a line of dashes. Path and headings
// stand left, numbers right.
func printTable(w io.Writer, rows [][]string) {
	const headings = 2
	var width []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for n, row := range rows {
		var b strings.Builder
		for i, size := range width {
			cell := strings.Repeat("-", size)
			if row != nil {
				cell = row[i]
			}
			pad := strings.Repeat(" ", size-utf8.RuneCountInString(cell))
			if i > 0 {
				b.WriteByte(' ')
			}
			if n < headings && i > 0 || i == 1 {
				b.WriteString(cell + pad)
			} else {
				b.WriteString(pad + cell)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

type usageJSON struct {
	Label            string            `json:"label"`
	UUID             string            `json:"uuid"`
	DeviceSize       uint64            `json:"device_size"`
	Allocated        uint64            `json:"device_allocated"`
	Unallocated      uint64            `json:"device_unallocated"`
	Missing          uint64            `json:"device_missing"`
	Slack            uint64            `json:"device_slack"`
	Used             uint64            `json:"used"`
	Free             uint64            `json:"free_estimated"`
	FreeMin          uint64            `json:"free_estimated_min"`
	DataRatio        float64           `json:"data_ratio"`
	MetadataRatio    float64           `json:"metadata_ratio"`
	MultipleProfiles bool              `json:"multiple_profiles"`
	Groups           []usageGroupJSON  `json:"groups"`
	Devices          []usageDeviceJSON `json:"devices"`
}

type usageGroupJSON struct {
	Type    string `json:"type"`
	Profile string `json:"profile"`
	Size    uint64 `json:"size"`
	Used    uint64 `json:"used"`
	Raw     uint64 `json:"raw"`
	Chunks  int    `json:"chunks"`
}

type usageDeviceJSON struct {
	ID          uint64          `json:"devid"`
	Name        string          `json:"name"`
	Missing     bool            `json:"missing"`
	Size        uint64          `json:"size"`
	Slack       uint64          `json:"slack"`
	Unallocated uint64          `json:"unallocated"`
	Allocated   []usageDevGroup `json:"allocated"`
}

type usageDevGroup struct {
	Type    string `json:"type"`
	Profile string `json:"profile"`
	Bytes   uint64 `json:"bytes"`
}

func usageToJSON(r *report.Usage) usageJSON {
	j := usageJSON{
		Label: r.Label, UUID: r.FSID.String(), DeviceSize: r.DeviceSize, Allocated: r.Allocated, Unallocated: r.Unallocated, Missing: r.Missing,
		Slack: r.Slack, Used: r.UsedRaw, Free: r.Free, FreeMin: r.FreeMin, DataRatio: r.DataRatio, MetadataRatio: r.MetadataRatio,
		MultipleProfiles: r.MultipleProfile, Groups: []usageGroupJSON{}, Devices: []usageDeviceJSON{},
	}
	for _, g := range r.Groups {
		j.Groups = append(j.Groups, usageGroupJSON{g.Type, g.Profile, g.Size, g.Used, g.Raw, g.Chunks})
	}
	for _, d := range r.Devices {
		dev := usageDeviceJSON{ID: uint64(d.ID), Name: d.Name, Missing: d.Missing, Size: d.Size, Slack: d.Slack, Unallocated: d.Unallocated, Allocated: []usageDevGroup{}}
		for i, n := range d.Raw {
			if n > 0 {
				dev.Allocated = append(dev.Allocated, usageDevGroup{r.Groups[i].Type, r.Groups[i].Profile, n})
			}
		}
		j.Devices = append(j.Devices, dev)
	}
	return j
}
