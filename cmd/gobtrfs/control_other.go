//go:build !linux || 386 || arm || mips || mipsle

package main

import "context"

// controlNames knows no names where nothing can be mounted.
func controlNames(*imageFlags, string) []string { return nil }

func (a *app) forward(context.Context, *imageFlags, string) error { return nil }
