// Package cache is the least recently wanted copy of what the object store holds:
// frames of segments on local disk ([Frames]) and decoded in memory ([Memory]).
package cache
