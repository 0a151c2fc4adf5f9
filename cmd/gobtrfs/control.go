package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"gobtrfs"
	"gobtrfs/blockdev"
	"gobtrfs/fusefs"
)

// A filesystem that is mounted for writing belongs to its server: nobody else
// may write to the image, and who reads it sees the last commit. So a verb that
// is about to open an image looks whether a server has it, and lets that carry
// out the whole command line: the server gets the arguments, the working
// directory and the standard streams over a socket, and answers with the exit
// code. Every verb works that way, for it happens where the image is opened.

// controlRequest is what the client says; its standard streams come along.
type controlRequest struct {
	Args []string `json:"args"`
	Dir  string   `json:"dir"`
}

// controlReply ends the conversation.
type controlReply struct {
	Code int `json:"code"`
}

// forwardedError ends a verb whose work another process has done.
type forwardedError struct{ code int }

func (e forwardedError) Error() string { return "" }

// mountServer is what verbs need of a fusefs.Server, which not every system has.
type mountServer interface {
	Watch(e *btrfs.Editor) (tell func())
	Stats() fusefs.Stats
}

// liveMount is the filesystem of a server that carries out verbs.
type liveMount struct {
	fs    *btrfs.FS
	devs  []blockdev.Device
	srv   mountServer
	since time.Time
	run   func(ctx context.Context, args []string, a *app) int
	names map[string]bool // controlNames that lead here

	mu sync.Mutex // one verb that changes something at a time
}

// path makes a path of the caller's absolute. Verbs need it for whatever is
// not an image: a server has another working directory than who asks it.
func (a *app) path(name string) string {
	if a.dir == "" || name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(a.dir, name)
}

// serves says whether an image or directory is the one that this process has
// mounted.
func (l *liveMount) serves(i *imageFlags, name string) bool {
	for _, n := range controlNames(i, name) {
		if l.names[n] {
			return true
		}
	}
	return false
}

// serving is the mount that this process serves, if a verb about an image or
// directory is to be carried out here, and nil if nobody has it mounted. If
// somebody else has, that server does the verb's work, and the error says so.
func (i *imageFlags) serving(ctx context.Context, a *app, name string) (*liveMount, error) {
	i.dir = a.dir
	switch {
	case a.live == nil:
		return nil, a.forward(ctx, i, name)
	case a.live.serves(i, name):
		return a.live, nil
	}
	return nil, fmt.Errorf("%s is not what is mounted here", name)
}

// open is the filesystem for a verb. What reads sees commits, so there is one.
func (l *liveMount) open(ctx context.Context) (*image, error) {
	if l.fs.Writer() != nil && l.fs.Failed() == nil {
		if err := l.fs.Sync(ctx); err != nil {
			return nil, err
		}
	}
	return &image{FS: l.fs, live: l}, nil
}

// mounted is the mount of an image or directory, in the server of that mount:
// elsewhere the error says that the server has done the verb's work, or that
// there is none.
func (i *imageFlags) mounted(ctx context.Context, a *app, name string) (*liveMount, error) {
	live, err := i.serving(ctx, a, name)
	if err == nil && live == nil {
		err = fmt.Errorf("%s is not mounted by gobtrfs", name)
	}
	return live, err
}
