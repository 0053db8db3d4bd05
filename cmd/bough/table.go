package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"charm.land/lipgloss/v2"
	"github.com/dustin/go-humanize"

	"github.com/bough-db/bough/api"
)

// table is rows under a header. Cells may carry styles; the columns align by
// what is seen.
type table struct {
	header []string
	rows   [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// write writes the table, each line indented.
func (t *table) write(w io.Writer, indent string) error {
	widths := make([]int, len(t.header))
	bold := lipgloss.NewStyle().Bold(true)
	rows := t.rows
	if t.header[len(t.header)-1] != "" {
		head := make([]string, len(t.header))
		for i, h := range t.header {
			head[i] = bold.Render(h)
		}
		rows = append([][]string{head}, rows...)
	}
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], lipgloss.Width(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		line := indent
		for i, cell := range row {
			line += cell + strings.Repeat(" ", widths[i]-lipgloss.Width(cell)+2)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// faint renders what matters less.
func faint(s string) string { return lipgloss.NewStyle().Faint(true).Render(s) }

// alarm renders what is wrong.
func alarm(s string) string {
	return lipgloss.NewStyle().Foreground(lipgloss.Red).Render(s)
}

// endpointCell renders the state of an endpoint, or that of a failed device.
func endpointCell(b api.Branch) string {
	switch {
	case b.Endpoint == api.EndpointFailed:
		return alarm(string(b.Endpoint))
	case b.Error != "":
		return alarm("error")
	case b.Endpoint == api.EndpointRunning:
		return lipgloss.NewStyle().Foreground(lipgloss.Green).Render(string(b.Endpoint))
	case b.Endpoint == api.EndpointSuspended && b.Attached:
		return "attached"
	case b.Endpoint == api.EndpointSuspended && b.Elsewhere:
		return "elsewhere"
	case b.Endpoint == api.EndpointSuspended:
		return faint(string(b.Endpoint))
	default:
		return lipgloss.NewStyle().Foreground(lipgloss.Yellow).Render(string(b.Endpoint))
	}
}

// ago renders how long ago t was.
func (a *app) ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return humanize.RelTime(t, a.now(), "ago", "from now")
}

// size renders a number of bytes.
func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// of renders how much of a bound is used.
func of(used, bound int64) string {
	if bound <= 0 {
		return size(used)
	}
	return fmt.Sprintf("%s of %s", size(used), size(bound))
}

// orDash returns s, or a dash for nothing.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
