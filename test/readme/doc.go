// Package readme is the reader of the shell blocks in Markdown documents, so that
// what a document tells its readers to type is checked, and run.
//
// A block is what stands between a line ```sh and the next line ```. Every block
// has to be correct shell syntax. A block is also executed if the comment
//
//	<!-- run -->
//
// stands on a line of its own before it, with nothing but blank lines in between.
// The marked blocks of a document are run in order by one bash with -euo pipefail,
// in the root of the repository, with bin/ first in PATH: [Script] makes the
// program. Whoever runs it sets up the rest (a daemon, a state directory) in the
// environment. Blocks that only show something, or never end, stay unmarked.
package readme
