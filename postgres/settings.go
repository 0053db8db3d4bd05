package postgres

import (
	"encoding/json"
	"fmt"
)

// settingsKey is where this package's settings are in a settings object; the
// other keys belong to others and are kept as they are.
const settingsKey = "postgres"

// ProjectSettings is what a project records about its Postgres, under the key
// "postgres" of the project's settings.
type ProjectSettings struct {
	// Major is the major version of Postgres, fixed for the project's life.
	Major int `json:"major"`
	// Role owns Database; its password is Password on every branch that has
	// not changed it.
	Role string `json:"role,omitempty"`
	// Database is the database that clients are sent to.
	Database string `json:"database,omitempty"`
	// Password is Role's. It is in the store so that any host can hand it out.
	Password string `json:"password,omitempty"`
	// Conf holds settings of postgresql.conf for all branches of the project.
	Conf map[string]string `json:"conf,omitempty"`
	// Template is set on a hidden template project only.
	Template *TemplateSettings `json:"template,omitempty"`
}

// TemplateSettings is what a template project records about the template.
type TemplateSettings struct {
	// Branch is the name of the branch that holds the finished template; empty
	// while there is none.
	Branch string `json:"branch"`
	// Version is the server that made it, as in "15.18".
	Version string `json:"version"`
}

// BranchSettings is what a branch records about its Postgres, under the key
// "postgres" of the branch's settings. The zero value is the safe one: a
// branch about which nothing is known is cleaned at its next start.
type BranchSettings struct {
	// Ready tells that the first start is done: the password is set and what
	// the parent did to the outside world is undone. It is not inherited.
	Ready bool `json:"ready,omitempty"`
	// FromTemplate tells that the parent is a template, so that there is
	// nothing to undo.
	FromTemplate bool `json:"from_template,omitempty"`
	// Restored tells that the branch was restored to its own past, and goes on with
	// what it does to the outside. It is not inherited.
	Restored bool `json:"restored,omitempty"`
	// Recovering is the point of a transaction that the branch is being recovered to. It
	// does not run before that is done, and is not inherited.
	Recovering string `json:"recovering,omitempty"`
	// KeepEffects keeps what reaches out of the branch as it is in the parent:
	// replication slots, subscriptions, archiving, cron jobs.
	KeepEffects bool `json:"keep_effects,omitempty"`
	// FSBytes is the device size that the file system fills; 0 is unknown. A
	// device that is larger has its file system grown at the next start.
	FSBytes int64 `json:"fs_bytes,omitempty"`
	// Conf holds settings of postgresql.conf for this branch; they win over
	// the project's. Children inherit them.
	Conf map[string]string `json:"conf,omitempty"`
}

// keeps tells whether the branch does to the outside what its data says.
func (s *BranchSettings) keeps() bool { return s.KeepEffects || s.FromTemplate || s.Restored }

// ProjectSettingsOf reads the settings of a project; none are the zero value.
func ProjectSettingsOf(raw json.RawMessage) (ProjectSettings, error) {
	var s ProjectSettings
	return s, decodeSettings(raw, &s)
}

// BranchSettingsOf reads the settings of a branch; none are the zero value.
func BranchSettingsOf(raw json.RawMessage) (BranchSettings, error) {
	var s BranchSettings
	return s, decodeSettings(raw, &s)
}

func decodeSettings(raw json.RawMessage, to any) error {
	if len(raw) == 0 {
		return nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(raw, &all); err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	mine, ok := all[settingsKey]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(mine, to); err != nil {
		return fmt.Errorf("read postgres settings: %w", err)
	}
	return nil
}

// encodeSettings returns raw with this package's settings replaced.
func encodeSettings(raw json.RawMessage, mine any) (json.RawMessage, error) {
	all := make(map[string]json.RawMessage)
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &all); err != nil {
			return nil, fmt.Errorf("read settings: %w", err)
		}
	}
	text, err := json.Marshal(mine)
	if err != nil {
		return nil, fmt.Errorf("write postgres settings: %w", err)
	}
	if all == nil { // the settings were a JSON null
		all = make(map[string]json.RawMessage)
	}
	all[settingsKey] = text
	return json.Marshal(all)
}
