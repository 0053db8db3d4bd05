package main

import (
	"log/slog"
	"syscall"

	"golang.org/x/sys/unix"
)

// beFlusher tells the kernel that this process is part of the way from file
// systems to the disk. Otherwise a thread of it that writes, or runs out of
// memory, could be made to wait until there are fewer dirty pages, and those may
// be of a branch, which only this process can write: neither would ever go on.
//
// All threads have to say so; those to come inherit it, and so do children (see
// package postgres for those that should not).
func beFlusher(log *slog.Logger) {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0, 0)
	if errno != 0 { // an old kernel, no CAP_SYS_RESOURCE, or a build with cgo
		log.Debug("not an I/O flusher: under memory pressure branches may be slow", "err", errno)
	}
}
