package api

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/sluicehq/sluice/api/wire"
)

// docs.html is made from openapi.yaml by renderDocs, in docs_test.go; a test
// compares the two.
//go:generate go test -count=1 -run ^TestTheDocsPageShowsTheDescription$ . -update

// The description of the API and the page that shows it. The page asks for
// nothing but /openapi.yaml and runs no code but its own.
var (
	//go:embed openapi.yaml
	openAPI []byte
	//go:embed docs.html
	docsPage []byte
)

// describe returns the description with the address that the API is at.
func describe(public string) []byte {
	return bytes.Replace(openAPI, []byte("\n  - url: /\n"), []byte("\n  - url: "+strings.TrimRight(public, "/")+"\n"), 1)
}

// getOpenAPI is GET /openapi.yaml.
func (a *API) getOpenAPI(c echo.Context) error {
	return static(c, "application/yaml", a.openAPI)
}

// docsPolicy lets the page run the one script that it holds.
var docsPolicy = func() string {
	_, script, _ := bytes.Cut(docsPage, []byte("<script>"))
	script, _, _ = bytes.Cut(script, []byte("</script>"))
	sum := sha256.Sum256(script)
	return "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
}()

// getDocs is GET /docs.
func getDocs(c echo.Context) error {
	c.Response().Header().Set("Content-Security-Policy", docsPolicy)
	return static(c, "text/html; charset=utf-8", docsPage)
}

func static(c echo.Context, media string, body []byte) error {
	etag, h := wire.ETag(body), c.Response().Header()
	h.Set("ETag", etag)
	h.Set("Cache-Control", "no-cache")
	if wire.Matches(c.Request().Header, etag) {
		c.Response().WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", media)
	c.Response().WriteHeader(http.StatusOK)
	_, _ = c.Response().Write(body)
	return nil
}
