package proxy

import "strings"

// branchOption is the name of the setting that the door takes for itself.
const branchOption = "branch"

// flagsWithValue are the one-letter switches of a Postgres backend that take a
// value, from the getopt call in PostgresMain; '-' stands for --name=value.
const flagsWithValue = "BCcDdfhkNprStvW-"

// word is one argument in an options string: where it stands, and what it says
// once its backslashes are resolved.
type word struct {
	start, end int
	text       string
}

// splitOptions cuts options into words as pg_split_opts does: white space
// separates, a backslash takes the next character literally.
func splitOptions(options string) []word {
	var words []word
	for i := 0; i < len(options); {
		if isSpace(options[i]) {
			i++
			continue
		}
		w := word{start: i}
		var text strings.Builder
		escaped := false
		for ; i < len(options) && (escaped || !isSpace(options[i])); i++ {
			if escaped = !escaped && options[i] == '\\'; !escaped {
				text.WriteByte(options[i])
			}
		}
		w.end, w.text = i, text.String()
		words = append(words, w)
	}
	return words
}

// isSpace is isspace of the C locale.
func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

// takeBranchOption removes every form of branch=VALUE from options and returns
// the value ("" if there is none) and what is left. Words that are kept are
// kept byte for byte, with the space around them.
func takeBranchOption(options string) (value, rest string, err error) {
	words := splitOptions(options)
	var kept strings.Builder
	from := 0 // options[from:] is not copied yet
	for i := 0; i < len(words) && words[i].text != "--"; i++ {
		setting, flags, last := settingAt(words, i)
		found, ok, err := branchValue(setting, strings.HasPrefix(words[i].text, "-"))
		if err != nil {
			return "", "", err
		}
		if ok {
			if value != "" && value != found {
				return "", "", refuse(codeUnknownBranch, "Name it once.",
					"the options name branch %q and branch %q", clip(value), clip(found))
			}
			value = found
			kept.WriteString(options[from:words[i].start])
			from = len(options)
			if last+1 < len(words) {
				from = words[last+1].start
			}
			if flags != "" { // of -ec branch=x, -e stays
				kept.WriteString("-" + flags + " ")
			}
		}
		i = last
	}
	kept.WriteString(options[from:])
	if rest = kept.String(); value != "" && len(splitOptions(rest)) == 0 {
		rest = ""
	}
	return value, rest, nil
}

// settingAt looks at words[i] as getopt does. It returns the text of the
// setting it makes (of -c, of --, or a bare word itself; "" if it is something
// else), the switches bundled before it, and the index of the last word it takes
// up.
func settingAt(words []word, i int) (setting, flags string, last int) {
	text := words[i].text
	if len(text) < 2 || text[0] != '-' {
		return text, "", i
	}
	for k := 1; k < len(text); k++ {
		if strings.IndexByte(flagsWithValue, text[k]) < 0 {
			continue
		}
		value, last := text[k+1:], i
		if value == "" && i+1 < len(words) {
			last = i + 1
			value = words[last].text
		}
		if text[k] != 'c' && text[k] != '-' {
			value = ""
		}
		return value, text[1:k], last
	}
	return "", "", i
}

// branchValue returns the value if setting is branch=VALUE. A switch (-c or --)
// with the name alone is an error, as every setting without a value is in
// Postgres; a bare word with the name alone is none of the door's business.
func branchValue(setting string, isSwitch bool) (value string, ok bool, err error) {
	name, value, hasValue := strings.Cut(setting, "=")
	if !strings.EqualFold(name, branchOption) || !hasValue && !isSwitch {
		return "", false, nil
	}
	if value == "" {
		return "", false, refuse(codeSyntax, hintName, "the option branch requires a value")
	}
	return value, true, nil
}
