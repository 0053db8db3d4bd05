package main

import (
	"os"
	"time"
)

func main() {
	os.Exit(run(&app{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
		name: os.Args[0], args: os.Args[1:], environ: os.Environ(), now: time.Now,
	}))
}
