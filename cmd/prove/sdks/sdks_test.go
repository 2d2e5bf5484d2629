package sdks

import (
	"os"
	"strings"
	"testing"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The drivers of both majors of Anthropic's SDK are the same but for what they import.
func TestBothMajorsAreDrivenAlike(t *testing.T) {
	t.Parallel()
	first, second := read(t, "testdata/go/anthropic/main.go"), read(t, "testdata/go/anthropic2/main.go")
	want := strings.NewReplacer("anthropic-sdk-go", "anthropic-sdk-go/v2", "// Command anthropic", "// Command anthropic2").Replace(first)
	if second != want {
		t.Error("testdata/go/anthropic2 differs from testdata/go/anthropic")
	}
}

// What is named is what is driven, here and on the README's page.
func TestTheVersionsAreThoseThatAreDriven(t *testing.T) {
	t.Parallel()
	locked := read(t, "testdata/npm/package.json") + read(t, "testdata/go/go.mod")
	readme := read(t, "../../../README.md")
	for _, k := range all() {
		name, version, _ := strings.Cut(strings.Replace(k.name, "openai (npm)", "openai", 1), " ")
		if !strings.Contains(locked, version) || !strings.Contains(locked, name) {
			t.Errorf("%s is not in testdata", k.name)
		}
		if !strings.Contains(readme, "`"+name+"` "+version) {
			t.Errorf("the README does not say that %s was tried", k.name)
		}
	}
}
