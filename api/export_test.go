package api

import (
	"net/http"
	"regexp"
	"strings"

	"github.com/sluicehq/sluice/api/fault"
)

// Routes lists the routes as openapi.yaml names them: "METHOD /path/{name}". HEAD goes
// without saying.
func (a *API) Routes() []string {
	var list []string
	for _, r := range a.echo.Routes() {
		if r.Method == http.MethodHead {
			continue
		}
		list = append(list, r.Method+" "+strings.Replace(regexp.MustCompile(`:(\w+)`).ReplaceAllString(r.Path, "{$1}"), "*", "{id}", 1))
	}
	return list
}

// Codes lists the problem codes.
func Codes() []string {
	var list []string
	for _, k := range fault.Kinds() {
		list = append(list, k.Code)
	}
	return list
}
