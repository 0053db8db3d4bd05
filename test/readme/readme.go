package readme

import (
	"fmt"
	"strings"
)

// Block is one block of shell commands.
type Block struct {
	// Line is the number of the block's first line of text, from 1.
	Line int
	// Run tells whether the block is marked to be executed.
	Run bool
	// Text is the block without its fences.
	Text string
}

const (
	open   = "```sh"
	fence  = "```"
	marker = "<!-- run -->"
)

// Blocks returns the shell blocks of a document in order. A block that does not
// end, and a marker without a block, are errors.
func Blocks(markdown string) ([]Block, error) {
	var blocks []Block
	marked := 0   // line of a marker that waits for its block
	inside := ""  // closing fence of the block that we are in
	shell := true // that block is one of ours
	for i, line := range strings.Split(markdown, "\n") {
		line = strings.TrimRight(line, " \t\r")
		switch {
		case inside != "" && line == inside:
			inside = ""
		case inside != "":
			if shell {
				blocks[len(blocks)-1].Text += line + "\n"
			}
		case strings.HasPrefix(line, fence):
			inside, shell = fence, line == open
			if shell {
				blocks = append(blocks, Block{Line: i + 2, Run: marked > 0})
				marked = 0
			}
		case line == marker:
			if marked > 0 {
				return nil, fmt.Errorf("line %d: %s without a %s block", marked, marker, open)
			}
			marked = i + 1
		}
		if marked > 0 && line != marker && line != "" {
			return nil, fmt.Errorf("line %d: %s without a %s block", marked, marker, open)
		}
	}
	switch {
	case marked > 0:
		return nil, fmt.Errorf("line %d: %s without a %s block", marked, marker, open)
	case inside != "":
		return nil, fmt.Errorf("a %s block does not end", fence)
	}
	return blocks, nil
}

// Script returns a program for bash that executes the blocks that are marked, and
// prints every command before it runs it. It is empty if none is marked.
func Script(blocks []Block) string {
	var s strings.Builder
	for _, b := range blocks {
		if !b.Run {
			continue
		}
		if s.Len() == 0 {
			s.WriteString("set -euo pipefail\nPATH=$PWD/bin:$PATH\nset -v\n")
		}
		s.WriteString(b.Text)
	}
	return s.String()
}
