// Package style is the set of rules that the whole tree keeps, as a test: it walks
// the repository and reports every place that breaks one. Each rule is itself
// tested, on a small tree in testdata that breaks it.
//
// # Rules
//
//   - package-doc: every package says what it is, in a comment that begins with
//     its name.
//   - exported-doc: every exported identifier is documented, by a comment that
//     begins with its name; constants, variables and fields may share the comment of
//     their group.
//   - imports: packages import only what lies below them. The order is in layers.
//   - names: no package is named util, common, helpers, misc or types.
//   - length: a function has at most 120 lines, a file 600.
//   - sleep: nothing calls time.Sleep. Wait for what you wait for.
//   - panic: nothing panics, except where a comment "// unreachable: why" stands on
//     the same line or before it. A test may also say "// on purpose: why".
//   - sentinels: every exported error variable is named by a test.
//   - invariants: I1 to I10 are each named by a test.
//   - words: no file has a word that belongs to the making of it, an unexplained
//     TODO, or the name of a package registry's host.
//   - shell: the shell blocks of every document are correct bash, and so are the
//     scripts. README.md has one that is run (see package readme).
//   - links: the relative links of every document lead somewhere.
//
// To see which rules a tree breaks: go test ./test/style
package style
