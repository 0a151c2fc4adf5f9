// Package tidy holds the tests that keep the source in order: which package may
// import which, calls that are banned, sizes of files and functions, and
// comments that must be there. It has no code of its own.
package tidy
