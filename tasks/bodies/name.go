package bodies

import "strings"

// A name of a body, as [New] makes it, is
//
//	TENANT/HOURS/JOB.KIND.MARK
//
// and, where the body lies in a file with others, @FILE.PLACE behind it. It is looked at
// several times in each job's life, so it is read by hand.
const (
	tenantPart = 16 // letters of base32, small ones
	hoursPart  = 5  // digits and capitals, the first of the job's id
	prefixMost = 8  // small letters before an id's underline
	ulidPart   = 26 // digits and capitals
	markPart   = 26 // letters of base32
	placeMost  = 7  // digits and small letters
)

// lettersOf are sets of bytes.
var (
	small32  = lettersOf("abcdefghijklmnopqrstuvwxyz234567")
	base32s  = lettersOf("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
	capitals = lettersOf("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ")
	smalls   = lettersOf("abcdefghijklmnopqrstuvwxyz")
	digits36 = lettersOf("0123456789abcdefghijklmnopqrstuvwxyz")
)

func lettersOf(text string) (set [256]bool) {
	for i := range len(text) {
		set[text[i]] = true
	}
	return set
}

// made reports whether a text is so many bytes of a set, at least one.
func made(text string, least, most int, of *[256]bool) bool {
	if len(text) < least || len(text) > most {
		return false
	}
	for i := range len(text) {
		if !of[text[i]] {
			return false
		}
	}
	return true
}

// isID reports whether a text is the id of a job or of what else has bodies.
func isID(id string) bool {
	prefix, ulid, ok := strings.Cut(id, "_")
	return ok && made(prefix, 1, prefixMost, &smalls) && made(ulid, ulidPart, ulidPart, &capitals)
}

// readName returns whose body a name is of; ok is false for what is no name.
func readName(name string) (owner string, ok bool) {
	tenant, rest, _ := strings.Cut(name, "/")
	hours, rest, _ := strings.Cut(rest, "/")
	owner, rest, _ = strings.Cut(rest, ".")
	kind, rest, _ := strings.Cut(rest, ".")
	mark, where, packed := strings.Cut(rest, "@")
	switch Kind(kind) {
	case Prompt, Result, File:
	default:
		return "", false
	}
	if !made(tenant, tenantPart, tenantPart, &small32) || !made(hours, hoursPart, hoursPart, &capitals) || !isID(owner) || !made(mark, markPart, markPart, &base32s) {
		return "", false
	}
	if packed {
		file, place, _ := strings.Cut(where, ".")
		if !made(file, markPart, markPart, &base32s) || !made(place, 1, placeMost, &digits36) {
			return "", false
		}
	}
	return owner, true
}

func isName(name string) bool {
	_, ok := readName(name)
	return ok
}
