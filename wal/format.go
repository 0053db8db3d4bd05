package wal

const (
	recordFixedBytes = 96
	entryBytes       = 16
	// LogMax is the longest log id, in bytes.
	LogMax = 64
)
