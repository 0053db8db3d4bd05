// Command bough is the one binary: the daemon (bough serve) and the command
// line that talks to it.
//
// # Commands
//
// Each verb is one file: an options struct, its flags, and run. A verb turns
// its arguments into one or two calls of package api/client and prints the
// answer, as a table for a person or as JSON (--json) for a program. serve
// builds the daemon from the other packages; backend*.go is the only code that
// knows all of them.
//
// # Conventions
//
// Results go to standard output; progress and the one line of an error go to
// standard error. Exit codes are 0, 1 (it failed) and 2 (the command line makes
// no sense; nothing was asked of the daemon). Colour, alignment to the terminal
// and progress appear on a terminal only, and NO_COLOR is honoured. A password
// is printed by url and by --json, never elsewhere, and never goes into argv.
//
// # Finding the daemon
//
// --socket, else BOUGH_SOCKET, else bough.sock in BOUGH_STATE, else in
// /var/lib/bough for root or ~/.local/state/bough for others.
package main
