package objstore

// Verb is one of the five calls of [Store], for decorators that count or
// choose by it.
type Verb int

// The verbs.
const (
	VerbGet    Verb = iota // VerbGet is Store.Get.
	VerbReadAt             // VerbReadAt is Store.ReadAt.
	VerbPut                // VerbPut is Store.Put.
	VerbList               // VerbList is Store.List.
	VerbDelete             // VerbDelete is Store.Delete.

	// Verbs is how many there are.
	Verbs int = iota
)

// String returns the verb in lower case, as it labels metrics and traces.
func (v Verb) String() string {
	switch v {
	case VerbGet:
		return "get"
	case VerbReadAt:
		return "read"
	case VerbPut:
		return "put"
	case VerbList:
		return "list"
	case VerbDelete:
		return "delete"
	}
	return "unknown"
}
