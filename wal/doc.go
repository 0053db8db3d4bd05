// Package wal is the local journal: it makes an acknowledged write survive a
// crash of this machine before the store has it.
package wal
