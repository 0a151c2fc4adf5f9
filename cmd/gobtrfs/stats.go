package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"gobtrfs/disk"
	"gobtrfs/fusefs"
)

// mountStats is what a mount has done and how its filesystem is.
type mountStats struct {
	FSID        string            `json:"uuid"`
	Label       string            `json:"label"`
	UptimeNS    time.Duration     `json:"uptime_ns"`
	Writable    bool              `json:"writable"`
	Failure     string            `json:"failure,omitempty"` // why nothing can be written any more
	Transaction uint64            `json:"transaction"`
	Read        uint64            `json:"bytes_read"`
	Written     uint64            `json:"bytes_written"`
	Removed     int               `json:"removed_inodes_in_use"`
	Ops         []fusefs.OpStats  `json:"requests"`
	Space       []spaceStats      `json:"space"`
	Devices     []mountDeviceInfo `json:"devices"`
}

// spaceStats is the state of one type of block groups, in bytes.
type spaceStats struct {
	Type      string `json:"type"`
	Profile   string `json:"profile"` // of the next chunk
	Groups    int    `json:"block_groups"`
	Total     uint64 `json:"total"`
	Used      uint64 `json:"used"`
	Reserved  uint64 `json:"reserved"` // has a place, and is not recorded yet
	Pinned    uint64 `json:"pinned"`   // free after the next commit
	Promised  uint64 `json:"promised"` // has no place yet
	Waiting   int    `json:"tickets_waiting"`
	Tickets   uint64 `json:"tickets"`
	Failed    uint64 `json:"tickets_failed"`
	Made      uint64 `json:"chunks_made"`
	RemovedCh uint64 `json:"chunks_removed"`
}

type mountDeviceInfo struct {
	ID          uint64 `json:"devid"`
	Allocated   uint64 `json:"allocated"`
	Unallocated uint64 `json:"unallocated"`
}

// stats looks at a mount.
func (l *liveMount) stats() mountStats {
	st := l.srv.Stats()
	s := mountStats{
		FSID: l.fs.UUID().String(), Label: l.fs.Label(), UptimeNS: time.Since(l.since), Read: st.BytesRead, Written: st.BytesWritten,
		Removed: st.Removed, Ops: st.Ops, Transaction: uint64(l.fs.Super().Generation), Space: []spaceStats{}, Devices: []mountDeviceInfo{},
	}
	w := l.fs.Writer()
	if w == nil {
		return s
	}
	s.Writable = true
	if err := l.fs.Failed(); err != nil {
		s.Writable, s.Failure = false, err.Error()
	}
	s.Transaction = uint64(w.Txn().Trans())
	snap := w.Txn().Space().Snapshot()
	for _, u := range snap.Infos {
		profile := ""
		if p := disk.ProfileOf(u.Profile); p != nil {
			profile = p.Name
		}
		s.Space = append(s.Space, spaceStats{
			Type: typeName(u.Type), Profile: profile, Groups: u.Groups, Total: uint64(u.Total), Used: uint64(u.Used), Reserved: uint64(u.Reserved),
			Pinned: uint64(u.Pinned), Promised: uint64(u.Promised), Waiting: u.Waiting, Tickets: u.Stats.Tickets, Failed: u.Stats.Failed,
			Made: u.Stats.ChunksMade, RemovedCh: u.Stats.ChunksRemoved,
		})
	}
	for _, d := range snap.Devices {
		s.Devices = append(s.Devices, mountDeviceInfo{uint64(d.ID), uint64(d.Allocated), uint64(d.Unallocated)})
	}
	return s
}

// typeName is the type of block groups in a word.
func typeName(t disk.BlockGroupFlags) string {
	var names []string
	for _, n := range [...]struct {
		flag disk.BlockGroupFlags
		name string
	}{{disk.BlockGroupData, "data"}, {disk.BlockGroupMetadata, "metadata"}, {disk.BlockGroupSystem, "system"}} {
		if t&n.flag != 0 {
			names = append(names, n.name)
		}
	}
	return strings.Join(names, "+")
}

// writeMetrics writes the Prometheus text format, version 0.0.4.
func writeMetrics(w io.Writer, s *mountStats) {
	family := func(name, kind, help string) {
		fmt.Fprintf(w, "# HELP gobtrfs_%s %s\n# TYPE gobtrfs_%s %s\n", name, help, name, kind)
	}
	single := func(name, kind, help string, v any) {
		family(name, kind, help)
		fmt.Fprintf(w, "gobtrfs_%s %v\n", name, v)
	}
	flag := map[bool]int{true: 1}
	family("info", "gauge", "The filesystem.")
	fmt.Fprintf(w, "gobtrfs_info{uuid=%q,label=%q} 1\n", s.FSID, s.Label)
	single("uptime_seconds", "gauge", "Since the mount.", s.UptimeNS.Seconds())
	single("writable", "gauge", "1 if the mount can be written.", flag[s.Writable])
	single("transaction", "counter", "Number of the running transaction.", s.Transaction)
	single("read_bytes_total", "counter", "Contents given to the kernel.", s.Read)
	single("written_bytes_total", "counter", "Contents taken from the kernel.", s.Written)
	single("removed_inodes", "gauge", "Inodes without a name that are still in use.", s.Removed)
	family("requests_total", "counter", "Requests of the kernel.")
	for _, o := range s.Ops {
		fmt.Fprintf(w, "gobtrfs_requests_total{op=%q} %d\n", o.Name, o.Requests)
	}
	family("request_errors_total", "counter", "Requests that were answered with an error.")
	for _, o := range s.Ops {
		fmt.Fprintf(w, "gobtrfs_request_errors_total{op=%q} %d\n", o.Name, o.Errors)
	}
	family("request_seconds_total", "counter", "Time that requests took.")
	for _, o := range s.Ops {
		fmt.Fprintf(w, "gobtrfs_request_seconds_total{op=%q} %g\n", o.Name, o.Time.Seconds())
	}
	for _, m := range [...]struct {
		name, kind, help string
		value            func(*spaceStats) uint64
	}{
		{"space_total_bytes", "gauge", "Bytes in block groups.", func(u *spaceStats) uint64 { return u.Total }},
		{"space_used_bytes", "gauge", "Bytes that extents use.", func(u *spaceStats) uint64 { return u.Used }},
		{"space_reserved_bytes", "gauge", "Bytes that have a place and are not recorded yet.", func(u *spaceStats) uint64 { return u.Reserved }},
		{"space_pinned_bytes", "gauge", "Bytes that are free after the next commit.", func(u *spaceStats) uint64 { return u.Pinned }},
		{"space_promised_bytes", "gauge", "Bytes that are promised and have no place yet.", func(u *spaceStats) uint64 { return u.Promised }},
		{"tickets_waiting", "gauge", "Requests for space that wait.", func(u *spaceStats) uint64 { return uint64(u.Waiting) }},
		{"tickets_total", "counter", "Requests for space that had to wait.", func(u *spaceStats) uint64 { return u.Tickets }},
		{"tickets_failed_total", "counter", "Requests for space that waited in vain.", func(u *spaceStats) uint64 { return u.Failed }},
		{"chunks_made_total", "counter", "Chunks made.", func(u *spaceStats) uint64 { return u.Made }},
		{"chunks_removed_total", "counter", "Chunks removed.", func(u *spaceStats) uint64 { return u.RemovedCh }},
	} {
		if len(s.Space) == 0 {
			break
		}
		family(m.name, m.kind, m.help)
		for i := range s.Space {
			fmt.Fprintf(w, "gobtrfs_%s{type=%q} %d\n", m.name, s.Space[i].Type, m.value(&s.Space[i]))
		}
	}
	if len(s.Devices) > 0 {
		family("device_unallocated_bytes", "gauge", "Bytes of a device that are in no chunk.")
	}
	for _, d := range s.Devices {
		fmt.Fprintf(w, "gobtrfs_device_unallocated_bytes{devid=\"%d\"} %d\n", d.ID, d.Unallocated)
	}
}

func newStatsCmd(a *app) *cobra.Command {
	var image imageFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "stats IMAGE|DIR",
		Short: "Print what a mount has done and how full it is, for programs",
		Long: `stats prints numbers about the mount of an image, or the mount that a directory is
in, in the text format of Prometheus, as --metrics of the verb mount serves it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			live, err := image.mounted(cmd.Context(), a, args[0])
			if err != nil {
				return err
			}
			s := live.stats()
			if asJSON {
				return a.printJSON(&s)
			}
			writeMetrics(a.out, &s)
			return nil
		},
	}
	image.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}
