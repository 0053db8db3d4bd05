package postgres

import (
	"strings"
	"testing"
)

// TestFlushingSettings: what a branch at durability remote is told depends on how many
// clients it has, roughly, and a local one is told nothing of it.
func TestFlushingSettings(t *testing.T) {
	for _, tt := range []struct {
		clients         int
		delay, siblings string
	}{
		{0, "3200", "3"}, {8, "3200", "3"}, {9, "6400", "6"}, {32, "12800", "12"}, {50, "25600", "24"}, {5000, "25600", "24"},
	} {
		c := serverConfig{remote: true, group: groupOf(tt.clients)}
		file := c.file()
		for _, want := range []string{"wal_recycle = 'on'", "wal_init_zero = 'on'",
			"commit_delay = '" + tt.delay + "'", "commit_siblings = '" + tt.siblings + "'"} {
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
