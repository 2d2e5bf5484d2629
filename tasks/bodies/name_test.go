package bodies

import (
	"math/rand/v2"
	"regexp"
	"testing"
)

// A name is what these expressions say, whatever is wrong with it.
func TestANameIsReadAsItIsWrittenDown(t *testing.T) {
	t.Parallel()
	id := regexp.MustCompile(`^[a-z]{1,8}_[0-9A-Z]{26}$`)
	name := regexp.MustCompile(`^[a-z2-7]{16}/[0-9A-Z]{5}/([a-z]{1,8}_[0-9A-Z]{26})\.(prompt|result|file)\.[A-Z2-7]{26}(@[A-Z2-7]{26}\.[0-9a-z]{1,7})?$`)
	const plain = "abcdefgh234567ab/01KBX/job_01KBX3D2Z7R1M5Q8T9VWXYZ012.prompt.ABCDEFGHIJKLMNOPQRSTUVWX27"
	begin := []string{
		"", plain, plain + "@ZYXWVUTSRQPONMLKJIHGFEDC72.0", plain + "@ZYXWVUTSRQPONMLKJIHGFEDC72.zik0zj9",
		"abcdefgh234567ab/01KBX/abcdefgh_01KBX3D2Z7R1M5Q8T9VWXYZ012.result.ABCDEFGHIJKLMNOPQRSTUVWX27",
		"abcdefgh234567ab/01KBX/x_01KBX3D2Z7R1M5Q8T9VWXYZ012.file.ABCDEFGHIJKLMNOPQRSTUVWX27", plain + "\n", plain + "@", plain + "@.",
	}
	check := func(text string) {
		m, owner := name.FindStringSubmatch(text), ""
		if m != nil {
			owner = m[1]
		}
		if got, ok := readName(text); ok != (m != nil) || got != owner {
			t.Errorf("%q is read as one of %q, %v; want %q", text, got, ok, owner)
		}
		if got := isID(text); got != id.MatchString(text) {
			t.Errorf("%q is an id: %v", text, got)
		}
	}
	const letters = "aZ09_./@18-é\n"
	for _, text := range begin {
		check(text)
		for range 300 {
			b := []byte(text)
			for range 1 + rand.N(3) {
				at := rand.N(len(b) + 1)
				switch letter := letters[rand.N(len(letters))]; rand.N(3) {
				case 0:
					b = append(b[:at], append([]byte{letter}, b[at:]...)...)
				case 1:
					if at < len(b) {
						b[at] = letter
					}
				case 2:
					if at < len(b) {
						b = append(b[:at], b[at+1:]...)
					}
				}
			}
			check(string(b))
		}
	}
	for _, text := range []string{"job_01KBX3D2Z7R1M5Q8T9VWXYZ012", "abcdefgh_01KBX3D2Z7R1M5Q8T9VWXYZ012", "abcdefghi_01KBX3D2Z7R1M5Q8T9VWXYZ012", "_01KBX3D2Z7R1M5Q8T9VWXYZ012"} {
		check(text)
	}
}
