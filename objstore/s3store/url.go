package s3store

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Scheme begins every URL of an S3 store.
const Scheme = "s3://"

// ErrURL is wrapped by the errors of [ParseURL].
var ErrURL = errors.New("not the URL of an S3 store")

// prefixBytesMax leaves room for a key below it: S3 takes 1024 bytes for both.
const prefixBytesMax = 256

// Location says where a store is: what a URL holds, parsed and checked.
type Location struct {
	// Bucket is the name of the bucket.
	Bucket string
	// Prefix begins all keys, without slashes at either end. It may be empty.
	Prefix string
	// Endpoint is the base URL of the server. Empty is what the environment
	// or the profile names, else Amazon's for the region.
	Endpoint string
	// Region is the region of the bucket. Empty is what the environment or
	// the profile names, else us-east-1 if the endpoint is not Amazon's.
	Region string
	// PathStyle puts the bucket into the path of a request (true) or into the
	// host name (false). Nil is true if the endpoint is not Amazon's.
	PathStyle *bool
	// Profile is the section of the shared configuration and credentials files
	// to use. Empty is what the environment names, else the default one.
	Profile string
}

// ParseURL parses
//
//	s3://BUCKET[/PREFIX][?endpoint=URL][&region=NAME][&path_style=BOOL][&profile=NAME]
//
// Its errors are one line each, wrap [ErrURL], and hold no part of a URL that
// could be a password.
func ParseURL(raw string) (Location, error) {
	rest, ok := strings.CutPrefix(raw, Scheme)
	if !ok {
		return Location{}, fmt.Errorf("%w: it does not begin with %s", ErrURL, Scheme)
	}
	if strings.Contains(rest, "#") {
		return Location{}, fmt.Errorf("%w: it has a # in it", ErrURL)
	}
	where, params, _ := strings.Cut(rest, "?")
	var loc Location
	loc.Bucket, loc.Prefix, _ = strings.Cut(where, "/")
	loc.Prefix = strings.TrimSuffix(loc.Prefix, "/")
	if err := checkBucket(loc.Bucket); err != nil {
		return Location{}, err
	}
	if err := checkPrefix(loc.Prefix); err != nil {
		return Location{}, err
	}
	if err := loc.setParams(params); err != nil {
		return Location{}, err
	}
	return loc, nil
}

// setParams takes the part of the URL after the question mark.
func (l *Location) setParams(raw string) error {
	params, err := url.ParseQuery(raw)
	if err != nil {
		return fmt.Errorf("%w: what follows the ? is not NAME=VALUE&NAME=VALUE…, with %%XX for special characters", ErrURL)
	}
	for name, values := range params {
		if len(values) != 1 {
			return fmt.Errorf("%w: parameter %.40q is there %d times", ErrURL, name, len(values))
		}
		value := values[0]
		switch name {
		case "endpoint":
			if err := checkEndpoint(value); err != nil {
				return err
			}
			l.Endpoint = strings.TrimSuffix(value, "/")
		case "region":
			if !isName(value) {
				return fmt.Errorf("%w: region %.40q: write a name such as eu-central-1", ErrURL, value)
			}
			l.Region = value
		case "path_style":
			b, err := strconv.ParseBool(value)
			if err != nil {
				return fmt.Errorf("%w: path_style %.40q: write true or false", ErrURL, value)
			}
			l.PathStyle = &b
		case "profile":
			if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == ']' }) {
				return fmt.Errorf("%w: profile %.40q: write a name that the file has in brackets", ErrURL, value)
			}
			l.Profile = value
		default:
			return fmt.Errorf("%w: unknown parameter %.40q: there are endpoint, region, path_style and profile", ErrURL, name)
		}
	}
	return nil
}

// checkBucket applies the rules that Amazon and the others have in common, and
// does not quote what breaks them: it may be a password.
func checkBucket(bucket string) error {
	if bucket == "" {
		return fmt.Errorf("%w: no bucket: write s3://BUCKET/PREFIX", ErrURL)
	}
	if strings.Contains(bucket, "@") {
		return fmt.Errorf("%w: credentials have no place in it: put them into the environment or into ~/.aws/credentials", ErrURL)
	}
	inner := func(r rune) bool { return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' }
	for _, r := range bucket {
		if !inner(r) && r != '-' && r != '.' {
			return fmt.Errorf("%w: a bucket name has only a-z, 0-9, dots and dashes; the port of a server goes into endpoint=", ErrURL)
		}
	}
	if len(bucket) < 3 || len(bucket) > 63 || !inner(rune(bucket[0])) || !inner(rune(bucket[len(bucket)-1])) || strings.Contains(bucket, "..") {
		return fmt.Errorf("%w: bucket %.70q: a bucket name has 3 to 63 characters, a letter or digit at either end, and no two dots in a row", ErrURL, bucket)
	}
	return nil
}

// checkPrefix takes what a key may have, and capitals. Like checkBucket it does not
// quote characters that belong to neither.
func checkPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	if len(prefix) > prefixBytesMax {
		return fmt.Errorf("%w: a prefix of %d bytes is longer than %d", ErrURL, len(prefix), prefixBytesMax)
	}
	for segment := range strings.SplitSeq(prefix, "/") {
		switch {
		case segment == "":
			return fmt.Errorf("%w: the prefix has an empty part between slashes", ErrURL)
		case segment[0] == '.':
			return fmt.Errorf("%w: the prefix has a part that begins with a dot", ErrURL)
		case !isName(segment):
			return fmt.Errorf("%w: the prefix has other characters than letters, digits and . _ - /", ErrURL)
		}
	}
	return nil
}

// isName tells whether s is made of letters, digits, dots, dashes and underscores.
func isName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' || r == '_')
	})
}

// checkEndpoint takes http and https URLs of nothing but host, port and path.
func checkEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "":
		return fmt.Errorf("%w: endpoint: write http://HOST:PORT or https://HOST", ErrURL)
	case u.User != nil:
		return fmt.Errorf("%w: credentials have no place in the endpoint: put them into the environment or into ~/.aws/credentials", ErrURL)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(endpoint, "#"):
		return fmt.Errorf("%w: endpoint: it has more than a host, a port and a path", ErrURL)
	}
	return nil
}

// Name returns the location without its parameters, as messages call it.
func (l Location) Name() string {
	if l.Prefix == "" {
		return Scheme + l.Bucket
	}
	return Scheme + l.Bucket + "/" + l.Prefix
}

// String returns the URL: parsed again, it gives the same Location.
func (l Location) String() string {
	var params []string
	for _, p := range []struct{ name, value string }{
		{"endpoint", l.Endpoint}, {"region", l.Region}, {"profile", l.Profile},
	} {
		if p.value != "" {
			params = append(params, p.name+"="+queryEscape(p.value))
		}
	}
	if l.PathStyle != nil {
		params = append(params, "path_style="+strconv.FormatBool(*l.PathStyle))
	}
	if len(params) == 0 {
		return l.Name()
	}
	slices.Sort(params)
	return l.Name() + "?" + strings.Join(params, "&")
}

// queryEscape escapes like url.QueryEscape, but leaves the slashes and colons of
// an endpoint readable: nothing needs them escaped.
func queryEscape(s string) string {
	return strings.NewReplacer("%3A", ":", "%2F", "/").Replace(url.QueryEscape(s))
}
