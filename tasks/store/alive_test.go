package store_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/sluicehq/sluice/tasks"
	"github.com/sluicehq/sluice/tasks/redistest"
	"github.com/sluicehq/sluice/tasks/store"
)

// A heartbeat fails with whatever a submit fails with.
func TestBeatFailsWhereNothingCanBeTakenIn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		set  [][]any // what an operator has done
		want string
	}{
		"read-only replica":  {nil, [][]any{{"REPLICAOF", "127.0.0.1", "1"}}, "READONLY"},
		"too few replicas":   {nil, [][]any{{"CONFIG", "SET", "min-replicas-to-write", "1"}}, "NOREPLICAS"},
		"full":               {[]string{"--maxmemory", "1"}, nil, "OOM"},
		"no scripts":         {nil, [][]any{{"ACL", "SETUSER", "default", "-eval", "-evalsha"}}, "NOPERM"},
		"no channel":         {nil, [][]any{{"ACL", "SETUSER", "default", "resetchannels"}}, "channel"},
		"switched-off user":  {nil, [][]any{{"ACL", "SETUSER", "default", "off"}}, "NOAUTH"},
		"keys of others":     {nil, [][]any{{"ACL", "SETUSER", "default", "resetkeys", "~other:*"}}, "NOPERM"},
		"renamed SET":        {[]string{"--rename-command", "SET", ""}, nil, "Unknown Redis command"},
		"nothing is against": {nil, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t, redistest.Options{Args: c.args})
			admin := srv.Client()
			for _, command := range c.set {
				if err := admin.Do(t.Context(), command...).Err(); err != nil {
					t.Fatal(err)
				}
			}
			_, err := store.New(store.Config{Redis: srv.Client()}).Beat(t.Context())
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("Beat: %v; want %q", err, c.want)
			}
			if err != nil && !errors.Is(err, tasks.ErrUnavailable) && !errors.Is(err, tasks.ErrFull) {
				t.Errorf("Beat: %v is neither ErrUnavailable nor ErrFull", err)
			}
		})
	}
}

// What an ACL lacks is named in the words that it takes, and once it has them
// nothing is missing.
func TestMissingPermissionsAreNamedInTheWordsOfAnACL(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, redistest.Options{})
	admin := srv.Client()
	for _, c := range []struct{ rules, want []string }{
		{[]string{"~sluice:*", "&sluice:*", "+@all"}, nil},
		{[]string{"~sluice:*", "+@all"}, []string{"&sluice:*"}},
		{[]string{"~other:*", "&sluice:*", "+@all"}, []string{"~sluice:*"}},
		{[]string{"~sluice:*", "&sluice:*", "+@all", "-hincrby", "-zpopmin"}, []string{"+hincrby", "+zpopmin"}},
		{[]string{"~sluice:*", "&sluice:*", "+@all", "-@scripting"}, []string{"+eval", "+evalsha"}},
		{[]string{"~sluice:*", "&sluice:*", "+@all", "-publish"}, []string{"+publish"}},
	} {
		rules := []any{"ACL", "SETUSER", "app", "reset", "on", ">pw"}
		for _, r := range c.rules {
			rules = append(rules, r)
		}
		if err := admin.Do(t.Context(), rules...).Err(); err != nil {
			t.Fatal(err)
		}
		user := redis.NewClient(&redis.Options{Network: "unix", Addr: srv.Socket(), Username: "app", Password: "pw"})
		s := store.New(store.Config{Redis: user})
		got, err := s.Missing(t.Context())
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%v: missing %v, %v; want %v", c.rules, got, err, c.want)
		}
		for _, g := range got {
			if err := admin.Do(t.Context(), "ACL", "SETUSER", "app", g).Err(); err != nil {
				t.Errorf("ACL SETUSER app %s: %v", g, err)
			}
		}
		_ = user.Close() // permissions of channels count from the next connection
		again := redis.NewClient(&redis.Options{Network: "unix", Addr: srv.Socket(), Username: "app", Password: "pw"})
		if got, err := store.New(store.Config{Redis: again}).Missing(t.Context()); err != nil || len(got) > 0 {
			t.Errorf("%v: with what was missing, %v is, %v", c.rules, got, err)
		}
		_ = again.Close()
	}
	if left := admin.Keys(t.Context(), "*trial*").Val(); len(left) > 0 {
		t.Errorf("the trial leaves %v", left)
	}
}

// Every command that a script of Sluice or of Asynq calls is tried.
func TestEveryCommandOfTheScriptsIsTried(t *testing.T) {
	t.Parallel()
	tried := strings.Join(readLines(t, "alive.go"), "\n")
	asynq, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/hibiken/asynq").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	call := regexp.MustCompile(`redis\.p?call\(["'](\w+)["']`)
	seen := map[string]bool{"PUBLISH": true /* by Beat */, "MEMORY": true /* asynqmon's page of a queue alone */, "INFO": true /* which may be refused */}
	look := func(file string) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range call.FindAllStringSubmatch(string(b), -1) {
			if command := strings.ToUpper(m[1]); !seen[command] {
				seen[command] = true
				if !strings.Contains(tried, `{"`+command+`", "`) {
					t.Errorf("%s calls %s, which nobody tries", filepath.Base(file), command)
				}
			}
		}
	}
	if err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".lua") {
			look(path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(asynq)), "internal", "rdb", "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		look(f)
	}
	if len(seen) < 40 {
		t.Errorf("only %d commands found", len(seen))
	}
}
