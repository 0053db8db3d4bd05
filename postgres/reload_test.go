package postgres

import (
	"strings"
	"testing"
)

// TestFlushingSettings: what a branch at durability remote is told depends on how many
// clients it has, roughly, and a local one is told nothing of it.
func TestFlushingSettings(t *testing.T) {
	for _, tt := range []struct {
		clients, cores int
		delay          string
	}{
		{0, 2, "5200"}, {4, 2, "5200"}, {5, 2, "8400"}, {9, 2, "14800"}, {17, 2, "16000"}, {5000, 2, "16000"},
		{8, 16, "2800"}, {50, 16, "8400"}, {5000, 16, "16000"},
	} {
		c := serverConfig{remote: true, cores: tt.cores}
		c.crowd(tt.clients)
		file := c.file()
		for _, want := range []string{"wal_recycle = 'on'", "wal_init_zero = 'on'",
			"commit_delay = '" + tt.delay + "'", "commit_siblings = '1'"} {
			if !strings.Contains(file, want) {
				t.Errorf("%d clients: no %q in\n%s", tt.clients, want, file)
			}
		}
		c.remote = false
		if strings.Contains(c.file(), "commit_delay") {
			t.Errorf("a local branch with %d clients has a commit_delay", tt.clients)
		}
	}
}
