// Package tools pins the programs that check bough's code, in a module of its own
// so that their dependencies never enter the product's go.mod. `make lint` builds
// and runs them.
package tools
