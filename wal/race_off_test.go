//go:build !race

package wal

const sweepStep = 1
