package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	btrfs "gobtrfs"
	"gobtrfs/fusefs"
)

func TestMountOptions(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		// given
		list   string
		sloppy bool
		// want
		want mountOptions
		err  string
	}{
		{list: ""},
		{list: "noatime,nodiratime", want: mountOptions{atime: fusefs.AtimeNever, noDirAtime: true}},
		{list: "strictatime", want: mountOptions{atime: fusefs.AtimeAlways}},
		{list: "noatime,nodiratime,relatime,diratime"},
		{list: "defaults,relatime,nofail,_netdev,x-systemd.automount,user=joe,comment=x"},
		{list: "ro,,ro", want: mountOptions{readOnly: true}},
		{list: "rw", want: mountOptions{}},
		{list: "subvol=a/b/", want: mountOptions{subvol: "/a/b"}},
		{list: "subvol=/", want: mountOptions{subvol: "/"}},
		{list: "subvolid=0", want: mountOptions{subvolID: 5}},
		{list: "subvolid=0x101", want: mountOptions{subvolID: 257}},
		{list: "subvolid=-1", err: "subvolid=-1"},
		{list: "device=/dev/a,device=/dev/b", want: mountOptions{image: imageFlags{devices: []string{"/dev/a", "/dev/b"}}}},
		{list: "degraded,usebackuproot", want: mountOptions{backup: true, open: btrfs.Options{Degraded: true}}},
		{list: "rescue=nologreplay:idatacsums", want: mountOptions{open: btrfs.Options{NoLog: true, IgnoreDataChecksums: true}}},
		{list: "rescue=usebackuproot,norecovery", want: mountOptions{backup: true, open: btrfs.Options{NoLog: true}}},
		{list: "rescue=ibadroots", err: "ibadroots"},
		{list: "allow_other,suid,dev,noexec", want: mountOptions{allowOther: true, suid: true, dev: true, noExec: true}},
		{list: "suid,nosuid,dev,nodev"},
		{list: "cache_mib=64", want: mountOptions{open: btrfs.Options{CacheBytes: 64 << 20}}},
		{list: "offset=1048576", want: mountOptions{image: imageFlags{offset: 1 << 20}}},
		{list: "partition=2", want: mountOptions{image: imageFlags{partition: 2}}},
		{list: "scan=/dev,rescue=usebackuproot,remount,ro", want: mountOptions{
			backup: true, remount: true, readOnly: true, image: imageFlags{scan: []string{"/dev"}},
		}},
		{list: "compress=zstd:3,ssd,commit=5", want: mountOptions{
			open: btrfs.Options{Compress: "zstd:3", CommitInterval: 5 * time.Second}, ignored: []string{"ssd"},
		}},
		{list: "compress-force=lzo,nodatasum,nodatacow,dirty_mib=9,writeback_cache,inodes=5", want: mountOptions{
			open:      btrfs.Options{Compress: "lzo", CompressForce: true, NoDataSum: true, NoDataCow: true, DirtyBytes: 9 << 20, DirtyNodeBytes: 9 << 20},
			writeback: true, inodes: 5,
		}},
		{list: "discard", want: mountOptions{open: btrfs.Options{Discard: true}}},
		{list: "nodiscard,discard=async", want: mountOptions{open: btrfs.Options{Discard: true}}},
		{list: "discard,nodiscard"},
		{list: "discard=often", err: "discard knows async and sync"},
		{list: "compress,compress=no,commit=0", want: mountOptions{open: btrfs.Options{Compress: "none"}}},
		{list: "dirty_mib=1", want: mountOptions{open: btrfs.Options{DirtyBytes: 1 << 20, DirtyNodeBytes: leastDirtyNodes}}},
		{list: "ro,rw"},
		{list: "rw,ro", want: mountOptions{readOnly: true}},
		{list: "compress=brotli", err: "brotli"},
		{list: "autodefrag", err: "autodefrag"},
		{list: "fsname=x,log=/a", want: mountOptions{source: "x", log: "/a"}},
		{list: "nonsense", err: `"nonsense"`},
		{list: "nonsense=1", err: `"nonsense=1"`},
		{list: "auto_unmount", err: "auto_unmount"},
		{list: "subvol", err: "subvol"},
		{list: "ro=1", err: "ro=1"},
		{list: "nonsense,ro", sloppy: true, want: mountOptions{readOnly: true}},
	} {
		var got mountOptions
		err := parseMountOptions(tc.list, &got, tc.sloppy)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) || exitCode(err) != exitUsage {
				t.Errorf("%q: error %v, want one about %q", tc.list, err, tc.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", tc.list, err)
		}
		compare := cmp.Options{cmp.AllowUnexported(mountOptions{}, imageFlags{}), cmpopts.IgnoreTypes(btrfs.Events{})}
		if diff := cmp.Diff(tc.want, got, compare); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tc.list, diff)
		}
		// The server in the background gets what String says.
		again := mountOptions{log: got.log}
		if err := parseMountOptions(got.String(), &again, false); err != nil {
			t.Errorf("%q becomes %q: %v", tc.list, got.String(), err)
		}
		if diff := cmp.Diff(got, again, compare); diff != "" {
			t.Errorf("%q becomes %q (-want +got):\n%s", tc.list, got.String(), diff)
		}
	}
}

func TestHelperArguments(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args []string
		ro   bool
		fake bool
		err  string
	}{
		{args: []string{"/img", "/dir"}},
		{args: []string{"/img", "/dir", "-o", "rw"}}, // mount(8) says it by itself
		{args: []string{"/img", "/dir", "-o", "rw,noatime,ro"}, ro: true},
		{args: []string{"/img", "/dir", "-nv", "-o", "ro", "-t", "fuse.gobtrfs"}, ro: true},
		{args: []string{"/img", "/dir", "-sfoX,ro", "-N", "/proc/1/ns/mnt"}, ro: true, fake: true},
		{args: []string{"-r", "/img", "/dir"}, ro: true},
		{args: []string{"/img", "/dir", "-o"}, err: "needs a value"},
		{args: []string{"/img", "/dir", "-x"}, err: "unknown option -x"},
		{args: []string{"/img"}, err: "want a device"},
	} {
		r, fake, err := parseHelperArgs(tc.args)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%q: error %v, want one about %q", tc.args, err, tc.err)
			}
			continue
		}
		if err != nil || r.image != "/img" || r.dir != "/dir" || r.o.readOnly != tc.ro || fake != tc.fake {
			t.Errorf("%q: %+v, %v, %v", tc.args, r, fake, err)
		}
	}
}

func TestProgramNameChoosesTheHelper(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ argv, want []string }{
		{[]string{"/usr/bin/gobtrfs", "mount", "a"}, []string{"mount", "a"}},
		{[]string{"/sbin/mount.fuse.gobtrfs", "a", "b"}, []string{"mount-helper", "a", "b"}},
		{[]string{"mount.btrfs"}, []string{"mount-helper"}},
		{[]string{"/sbin/umount.fuse.gobtrfs", "a", "-l"}, []string{"umount-helper", "a", "-l"}},
		{[]string{"gobtrfs"}, []string{}},
		{nil, nil},
	} {
		if got := programArgs(tc.argv); !slices.Equal(got, tc.want) {
			t.Errorf("%q becomes %q, want %q", tc.argv, got, tc.want)
		}
	}
}

func TestUmountHelperArgs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args []string
		lazy bool
		err  string
	}{
		{args: []string{"/dir"}},
		{args: []string{"/dir", "-f", "-nv", "-t", "fuse.gobtrfs", "-N", "/ns"}},
		{args: []string{"-fl", "/dir"}, lazy: true},
		{args: []string{"/dir", "/other"}, err: "want one directory"},
		{args: []string{"-x", "/dir"}, err: "unknown option -x"},
		{err: "want a directory"},
	} {
		dir, lazy, err := parseUmountArgs(tc.args)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%q: error %v, want one about %q", tc.args, err, tc.err)
			}
			continue
		}
		if err != nil || dir != "/dir" || lazy != tc.lazy {
			t.Errorf("%q: %q, %v, %v", tc.args, dir, lazy, err)
		}
	}
}
