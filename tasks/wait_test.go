package tasks_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sluicehq/sluice/tasks"
)

// Every reason to wait has all its words, and callers are told of just these.
func TestEveryReasonToWaitHasItsWords(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("../api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	enum := regexp.MustCompile(`(?s)WaitReason:\n +type: string\n +enum: \[([^\]]+)\]`).FindSubmatch(b)
	if enum == nil {
		t.Fatal("openapi.yaml lists no reasons")
	}
	var listed []string
	for _, r := range tasks.WaitReasons {
		listed = append(listed, string(r))
	}
	if got := strings.Join(listed, ", "); got != string(enum[1]) {
		t.Errorf("openapi.yaml lists %s, and WaitReasons %s", enum[1], got)
	}
	src, err := os.ReadFile("submit.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`WaitReason = "(\w+)"`).FindAllSubmatch(src, -1) {
		if !slices.Contains(listed, string(m[1])) {
			t.Errorf("WaitReasons lacks %s", m[1])
		}
	}
	seen := map[string]tasks.WaitReason{}
	for _, r := range tasks.WaitReasons {
		v := reflect.ValueOf(r.Words())
		for i := range v.NumField() {
			text, what := v.Field(i).String(), v.Type().Field(i).Name
			if text == "" || seen[text] != "" {
				t.Errorf("%s of %s is %q, as that of %q", what, r, text, seen[text])
			}
			seen[text] = r
			if sentence := strings.HasSuffix(text, "."); sentence != (what == "Next") {
				t.Errorf("%s of %s is %q", what, r, text)
			}
		}
		if strings.Contains(r.Words().Next, "It waits for") {
			t.Errorf("%s has no words of its own", r)
		}
	}
	if got := tasks.WaitReason("of_a_later_release").Words(); got.For != "of a later release" || got.Next != "It waits for of a later release." {
		t.Errorf("one of a later release: %+v", got)
	}
}

// Nobody else puts reasons to wait into words: neither these words nor other ones, in a
// table or in a switch.
func TestReasonsToWaitArePutIntoWordsOnce(t *testing.T) {
	t.Parallel()
	files := token.NewFileSet()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || path == filepath.Join("..", "tasks", "wait.go") {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil || !may(string(src)) {
			return err
		}
		f, err := parser.ParseFile(files, path, src, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if what := words(n); what != "" {
				t.Errorf("%s: %s: the words of waiting are those of WaitReason.Words", files.Position(n.Pos()), what)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// What it finds, and what it does not.
	for src, want := range map[string]bool{
		`var _ = map[string]string{"not_before": "its time", "requests": "the pace"}`:                          true,
		`var _ = map[tasks.WaitReason]string{tasks.WaitPaused: "stands", tasks.WaitRetry: "later"}`:            true,
		`func _(r tasks.WaitReason) string { switch r { case tasks.WaitPaused: return "stands" }; return "" }`: true,
		`var _ = "it waits for an admin's review of its tenant"`:                                               true,
		`func _(r tasks.WaitReason) bool { switch r { case tasks.WaitPaused: return true }; return false }`:    false,
		`var _ = map[tasks.WaitReason]string{tasks.WaitPaused: "p", tasks.WaitRetry: "r"}`:                     false,
	} {
		f, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\n"+src, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		ast.Inspect(f, func(n ast.Node) bool { found = found || words(n) != ""; return true })
		if found != want {
			t.Errorf("%s: found %v, want %v", src, found, want)
		}
	}
}

// phrases are the words that nobody else may say; short ones may be said of other things.
var phrases = func() (all []string) {
	for _, r := range tasks.WaitReasons {
		w := r.Words()
		for _, p := range []string{w.For, w.Why, w.Next} {
			if len(p) > 20 {
				all = append(all, p)
			}
		}
	}
	return all
}()

// may reports whether a file may say something: most are not worth parsing.
func may(src string) bool {
	return slices.ContainsFunc(append([]string{"tasks.Wait", `"not_before": `, `"tenant_share": `}, phrases...), func(p string) bool { return strings.Contains(src, p) })
}

// words says what of a node puts reasons to wait into words; "": nothing.
func words(n ast.Node) string {
	switch n := n.(type) {
	case *ast.BasicLit:
		for _, p := range phrases {
			if strings.Contains(text(n), p) {
				return "it says " + strconv.Quote(p)
			}
		}
	case *ast.CompositeLit:
		said := 0
		for _, e := range n.Elts {
			if kv, ok := e.(*ast.KeyValueExpr); ok && reason(kv.Key) && len(text(kv.Value)) > 1 {
				said++
			}
		}
		if said > 1 {
			return "a table"
		}
	case *ast.CaseClause:
		if !slices.ContainsFunc(n.List, reason) {
			break
		}
		for _, s := range n.Body {
			if r, ok := s.(*ast.ReturnStmt); ok && slices.ContainsFunc(r.Results, func(e ast.Expr) bool { return len(text(e)) > 1 }) {
				return "a switch"
			}
		}
	}
	return ""
}

// reason reports whether an expression is a reason to wait.
func reason(e ast.Expr) bool {
	if s, ok := e.(*ast.SelectorExpr); ok {
		return strings.HasPrefix(s.Sel.Name, "Wait") && s.Sel.Name != "WaitReason"
	}
	return slices.Contains(tasks.WaitReasons, tasks.WaitReason(text(e)))
}

// text is a string as it stands; "" for anything else.
func text(e ast.Expr) string {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return ""
	}
	s, err := strconv.Unquote(l.Value)
	if err != nil {
		return ""
	}
	return s
}
