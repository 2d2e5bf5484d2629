package tasks_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

func TestEventTypes(t *testing.T) {
	form := regexp.MustCompile(`^[a-z]+\.[a-z]+$`) // as Standard Webhooks wants it
	for _, typ := range tasks.EventTypes() {
		if !typ.Valid() || !form.MatchString(string(typ)) {
			t.Errorf("type %q", typ)
		}
	}
	for _, typ := range []tasks.EventType{"", "job.succeeded ", "job.queued", tasks.EventEndpointTest} {
		if typ.Valid() {
			t.Errorf("%q can be subscribed to", typ)
		}
	}
}

// Scripts write the type of an event into its deliveries.
func TestTheScriptsOfTheRecordTellTheEventsThatThereAre(t *testing.T) {
	quoted := regexp.MustCompile(`'((?:job|batch|pool|endpoint)\.[a-z_]*)'`)
	ends := map[string][]string{"pool.": {"paused", "resumed"}}
	for _, s := range tasks.Statuses {
		if s.Final() {
			ends["job."] = append(ends["job."], string(s))
		}
	}
	var told []string
	err := filepath.WalkDir("store", func(path string, _ fs.DirEntry, err error) error {
		if ext := filepath.Ext(path); err != nil || ext != ".lua" && ext != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range quoted.FindAllStringSubmatch(string(b), -1) {
			word := m[1]
			switch {
			case !strings.HasSuffix(word, "."):
				told = append(told, word)
			case ends[word] == nil:
				t.Errorf("%s: '%s' begins the type of an event that this test does not know", path, word)
			}
			for _, end := range ends[word] {
				told = append(told, word+end)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	sameEvents(t, "the scripts of tasks/store", told, append(tasks.EventTypes(), tasks.EventEndpointTest))
}

func TestTheDocumentedEventsAreTheEventsThatThereAre(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "api", "openapi.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile(`enum: \[(job\.[^\]]+)\]`).FindStringSubmatch(string(b))
	if list == nil {
		t.Fatal("openapi.yaml lists no events")
	}
	sameEvents(t, "openapi.yaml", strings.Split(list[1], ", "), tasks.EventTypes())
}

func sameEvents(t *testing.T, where string, got []string, want []tasks.EventType) {
	t.Helper()
	for _, typ := range got {
		if !slices.Contains(want, tasks.EventType(typ)) {
			t.Errorf("%s: %s is no event", where, typ)
		}
	}
	for _, typ := range want {
		if !slices.Contains(got, string(typ)) {
			t.Errorf("%s: %s is missing", where, typ)
		}
	}
}
