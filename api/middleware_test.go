package api_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Of Echo's middleware only CORS is used. Others have advisories that release 4 leaves open (a body
// that is dumped whole, a proxy, JSONP), or trust fields that anybody may send (RealIP, and the
// extractors of X-Forwarded-For and X-Real-IP): a request's address is its connection's own.
func TestNoMiddlewareWithOpenAdvisories(t *testing.T) {
	t.Parallel()
	allowed := map[string][]string{
		"github.com/labstack/echo/v4/middleware": {"CORSConfig", "CORSWithConfig"},
	}
	forbidden := []string{"RealIP", "JSONP", "JSONPBlob", "ExtractIPFromXFFHeader", "ExtractIPFromRealIPHeader", "LegacyIPExtractor"}
	seen := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "node_modules" || strings.HasPrefix(d.Name(), ".") && d.Name() != ".."):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, 0)
		if err != nil {
			return err
		}
		of := map[string][]string{} // by the name that a package has here: what of it may be used
		echo := false
		for _, i := range file.Imports {
			name := strings.Trim(i.Path.Value, `"`)
			echo = echo || strings.HasPrefix(name, "github.com/labstack/echo")
			if some, ok := allowed[name]; ok {
				of[filepath.Base(name)] = some
				if i.Name != nil {
					of[i.Name.Name] = some
				}
			} else if strings.HasPrefix(name, "github.com/labstack/") && strings.Contains(name, "middleware") {
				t.Errorf("%s imports %s", path, name)
			}
		}
		if !echo {
			return nil
		}
		seen++
		ast.Inspect(file, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if slices.Contains(forbidden, s.Sel.Name) {
				t.Errorf("%s uses %s", set.Position(s.Pos()), s.Sel.Name)
			}
			if x, ok := s.X.(*ast.Ident); ok && of[x.Name] != nil && !slices.Contains(of[x.Name], s.Sel.Name) {
				t.Errorf("%s uses middleware.%s: of Echo's middleware only %v", set.Position(s.Pos()), s.Sel.Name, of[x.Name])
			}
			return true
		})
		return nil
	})
	if err != nil || seen < 10 {
		t.Fatalf("%d files of Echo's looked at, %v", seen, err)
	}
}
