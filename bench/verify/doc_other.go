//go:build !linux

// Command verify measures how fast data is verified, on Linux only.
package main

func main() {}
