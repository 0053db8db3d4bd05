package cow

import "errors"

// Errors of the catalogue: what was asked for can not be done.
var (
	// ErrNotFound: no such project or branch.
	ErrNotFound = errors.New("not found")
	// ErrExists: the name is taken.
	ErrExists = errors.New("exists already")
	// ErrInvalidName: the name breaks the grammar; see CheckName.
	ErrInvalidName = errors.New("invalid name")
	// ErrInvalidSize: the device size is not a multiple of BlockSize, is too
	// large, or would shrink.
	ErrInvalidSize = errors.New("invalid size")
	// ErrInUse: the branch is open here, or attached by another host.
	ErrInUse = errors.New("in use")
	// ErrNotKept: the barrier was there, and is beyond what is kept.
	ErrNotKept = errors.New("not kept any more")
	// ErrProtected: the branch is protected from deletion and restoration.
	ErrProtected = errors.New("protected")
	// ErrExpires: the branch is to be deleted by itself.
	ErrExpires = errors.New("it expires")
	// ErrTooMany: there are as many of that as there can be.
	ErrTooMany = errors.New("too many")
	// ErrTooDeep: the branch would have more ancestors than an address can name.
	ErrTooDeep = errors.New("too many ancestors")
)

// Errors of the data: something is wrong with what is stored, or with the device.
var (
	// ErrCorrupt: what was read is not what was written.
	ErrCorrupt = errors.New("corrupt")
	// ErrNewerFormat: the store was written by a later version of the program.
	ErrNewerFormat = errors.New("format is newer than this program")
	// ErrFenced: another host has taken the branch over.
	ErrFenced = errors.New("branch was taken over by another host")
	// ErrClosed: the branch or the store has been closed.
	ErrClosed = errors.New("closed")
	// ErrOutOfRange: an offset or length outside of the device.
	ErrOutOfRange = errors.New("out of the device's range")
)
