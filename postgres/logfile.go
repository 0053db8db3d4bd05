package postgres

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
)

const (
	logBytesMax  = 16 << 20 // of a log file; there are two
	logLinesKept = 20       // in memory, for status and errors
	logLineMax   = 4 << 10  // of a line kept in memory
)

// logFile receives what a server writes to stderr: a file bounded in size and
// the last lines in memory. A full disk loses log lines and nothing else.
type logFile struct {
	path   string
	logger *slog.Logger

	mu    sync.Mutex
	file  *os.File
	size  int64
	mute  bool     // the file can not be written: complained about once
	lines []string // the last ones, oldest first
}

// openLog opens the log at path for a new run, and starts a new file if the
// one there is large.
func openLog(path string, logger *slog.Logger) (*logFile, error) {
	l := &logFile{path: path, logger: logger}
	if err := l.open(); err != nil {
		return nil, err
	}
	if l.size > logBytesMax/2 {
		if err := l.rotate(); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *logFile) open() error {
	file, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return fmt.Errorf("open server log: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return fmt.Errorf("open server log: %w", err)
	}
	l.file, l.size = file, info.Size()
	return nil
}

// rotate keeps the file as path.1 and goes on with an empty one.
func (l *logFile) rotate() error {
	l.file.Close()
	if err := os.Rename(l.path, l.path+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("rotate server log: %w", err)
	}
	return l.open()
}

// copyFrom copies r to the log until it ends, and calls each with every line
// (without its newline; cut at logLineMax), which is not retained.
func (l *logFile) copyFrom(r io.Reader, each func(line []byte)) {
	in := bufio.NewReaderSize(r, logLineMax)
	var begin []byte // of a line that did not fit into the buffer
	for {
		part, err := in.ReadSlice('\n')
		if len(part) > 0 {
			l.write(part)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			if begin == nil {
				begin = bytes.Clone(part)
			}
			continue
		case len(part) == 0:
		case begin != nil:
			l.keep(begin)
			each(begin)
			begin = nil
		default:
			line := bytes.TrimRight(part, "\n")
			l.keep(line)
			each(line)
		}
		if err != nil {
			return
		}
	}
}

func (l *logFile) write(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size+int64(len(p)) > logBytesMax {
		if err := l.rotate(); err != nil {
			l.complain(err)
		}
	}
	n, err := l.file.Write(p)
	l.size += int64(n)
	if err != nil {
		l.complain(err)
	} else {
		l.mute = false
	}
}

func (l *logFile) complain(err error) {
	if !l.mute {
		l.logger.Warn("server log is incomplete", "path", l.path, "error", err)
	}
	l.mute = true
}

func (l *logFile) keep(line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) >= logLinesKept {
		l.lines = append(l.lines[:0], l.lines[1:]...)
	}
	l.lines = append(l.lines, string(line))
}

// tail returns the last lines, oldest first.
func (l *logFile) tail() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.lines...)
}

func (l *logFile) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.file.Close()
}
