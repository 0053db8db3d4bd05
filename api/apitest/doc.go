// Package apitest is a daemon without a store: an in-memory api.Backend for
// tests of the interface, its client and the command line.
//
// It keeps projects and branches in maps and makes every time, id and address
// from counters, so that what is printed can be compared with golden files.
// [Backend.Fail] makes a method return an error. A Backend may be used
// concurrently; nothing in it blocks except where [Backend.Block] says so.
package apitest
