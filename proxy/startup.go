package proxy

import (
	"bytes"
	"encoding/binary"
)

// identifierBytesMax is how much of a role's name Postgres looks at (NAMEDATALEN - 1).
const identifierBytesMax = 63

// startup is a StartupMessage: the version word and the parameters in the
// order in which they came.
type startup struct {
	version uint32
	params  []param
}

// param is one parameter of a StartupMessage.
type param struct{ name, value string }

// parseStartup decodes a whole packet, length word and version included. It
// accepts what Postgres accepts, with one exception: a parameter that the door
// acts on must not come twice, since two readers could pick different ones.
func parseStartup(packet []byte) (*startup, error) {
	st := &startup{version: binary.BigEndian.Uint32(packet[4:8])}
	body := packet[8:]
	for len(body) > 0 && body[0] != 0 {
		name, rest, okName := bytes.Cut(body, []byte{0})
		value, rest, okValue := bytes.Cut(rest, []byte{0})
		if !okName || !okValue {
			return nil, errLayout()
		}
		p := param{name: string(name), value: string(value)}
		if _, twice := st.get(p.name); twice && (p.name == "user" || p.name == "database" || p.name == "options") {
			return nil, refuse(codeProtocol, "", "startup packet has the parameter %q twice", p.name)
		}
		st.params = append(st.params, p)
		body = rest
	}
	if len(body) != 1 {
		return nil, errLayout()
	}
	return st, nil
}

// errLayout is Postgres's answer to a startup packet it cannot take apart.
func errLayout() *Error {
	return refuse(codeProtocol, "", "invalid startup packet layout: expected terminator as last byte")
}

// get returns the value of a parameter and whether it is there.
func (st *startup) get(name string) (string, bool) {
	for _, p := range st.params {
		if p.name == name {
			return p.value, true
		}
	}
	return "", false
}

// set changes a parameter that is there, or removes it when value is "".
func (st *startup) set(name, value string) {
	for i, p := range st.params {
		if p.name != name {
			continue
		}
		if value == "" {
			st.params = append(st.params[:i], st.params[i+1:]...)
		} else {
			st.params[i].value = value
		}
		return
	}
}

// user returns the role that Postgres will see.
func (st *startup) user() (string, error) {
	user, _ := st.get("user")
	if user == "" {
		return "", refuse(codeAuthorization, "", "no PostgreSQL user name specified in startup packet")
	}
	if len(user) > identifierBytesMax {
		user = user[:identifierBytesMax]
	}
	return user, nil
}

// encode returns the packet. For a startup that was parsed and not changed
// these are the very bytes that came.
func (st *startup) encode() []byte {
	p := binary.BigEndian.AppendUint32(make([]byte, 4, 512), st.version)
	for _, kv := range st.params {
		p = append(append(p, kv.name...), 0)
		p = append(append(p, kv.value...), 0)
	}
	p = append(p, 0)
	binary.BigEndian.PutUint32(p, uint32(len(p)))
	return p
}
