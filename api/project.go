package api

import "time"

// Project is a named family of branches.
type Project struct {
	// Name is the project's name and its identity.
	Name string `json:"name"`
	// Created is when it was made.
	Created time.Time `json:"created"`
	// SizeBytes is the size of the devices of its branches; they are thin.
	SizeBytes int64 `json:"size_bytes"`
	// PGVersion is the major version of Postgres its endpoints run; 0 = unknown.
	PGVersion int `json:"pg_version,omitempty"`
	// History says which barriers of its branches stay; "" = what the daemon says.
	History string `json:"history,omitempty"`
	// Branches is how many branches it has.
	Branches int `json:"branches"`
	// Error is why its record cannot be read, in lists; "" = it can.
	Error string `json:"error,omitempty"`
}

// CreateProject is the request to make a project.
type CreateProject struct {
	// Name is the new project's name.
	Name string `json:"name"`
	// PGVersion is the major version of Postgres. Default: the newest installed.
	PGVersion int `json:"pg_version,omitempty"`
	// SizeBytes is the size of the device. Default: 256 GiB, thin.
	SizeBytes int64 `json:"size_bytes,omitempty"`
	// Durability is that of its branch main, and so of the branches made of that.
	// Default: local.
	Durability Durability `json:"durability,omitempty"`
}

// SetProject is the request to change the settings of a project; what is not given
// stays.
type SetProject struct {
	// History says which barriers of its branches stay; see package cow's
	// ParseRetention. "" is what the daemon says.
	History *string `json:"history,omitempty"`
}

// CreatedProject is the answer to CreateProject.
type CreatedProject struct {
	// Project is the new project.
	Project Project `json:"project"`
	// Branch is its first branch.
	Branch Branch `json:"branch"`
	// Connection is how to connect to that branch.
	Connection Connection `json:"connection"`
}

// ProjectDetail is one project with its branches.
type ProjectDetail struct {
	// Project is the project.
	Project Project `json:"project"`
	// Branches are its branches, by creation.
	Branches []Branch `json:"branches"`
}

// ProjectList is the answer to a list of projects, by name.
type ProjectList struct {
	// Projects are the projects; never null.
	Projects []Project `json:"projects"`
}
