//go:build !linux

// Command bench measures gobtrfs against Linux's own tools, on Linux only.
package main

func main() {}
