package api_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"flag"
	"html"
	"html/template"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

var update = flag.Bool("update", false, "write docs.html from openapi.yaml")

// docsTemplate turns openapi.yaml into the page at /docs. The page is made when
// the description changes, not when the program runs, so that the program needs
// no YAML and no script.
var docsTemplate = template.Must(template.New("docs").Funcs(template.FuncMap{
	"anchor": func(method, path string) string {
		return strings.ToLower(method) + strings.NewReplacer("/", "-", "{", "", "}", "", ".", "-").Replace(path)
	},
	// Text between back quotes is code.
	"text": func(s string) template.HTML {
		var b strings.Builder
		for i, part := range strings.Split(s, "\x60") {
			if i%2 == 1 {
				part = "<code>" + template.HTMLEscapeString(part) + "</code>"
			} else {
				part = template.HTMLEscapeString(part)
			}
			b.WriteString(part)
		}
		return template.HTML(b.String()) // escaped above
	},
	"paragraphs": func(s string) []string { return strings.Split(strings.TrimSpace(s), "\n\n") },
}).Parse(`<!doctype html>
{{.Made}}
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}} API</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8881; background: #fff; color: #1c1e21; } a { color: #0b57d0; }
@media (prefers-color-scheme: dark) { :root { background: #15171a; color: #e6e8ea; } a { color: #8ab4f8; } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem 1.5rem 4rem; }
h1 { margin-bottom: 0; } h2 { border-bottom: 1px solid var(--line); margin-top: 3rem; }
code, pre { font: 0.9em/1.45 ui-monospace, monospace; background: var(--soft); border-radius: 4px; }
code { padding: 0.1em 0.3em; } pre { padding: 0.8rem 1rem; white-space: pre-wrap; }
table { border-collapse: collapse; width: 100%; } td, th { border-top: 1px solid var(--line); padding: 0.3rem 0.6rem 0.3rem 0; text-align: left; vertical-align: top; }
section.call { border: 1px solid var(--line); border-radius: 8px; margin: 1.2rem 0; padding: 0.2rem 1.2rem 1rem; }
section.call h3 code { font-size: 1em; } .method { font-weight: 700; }
nav ul { columns: 24rem 2; padding-left: 1.2rem; } summary { cursor: pointer; }
code, td, th { overflow-wrap: anywhere; } pre { overflow-wrap: anywhere; }
input { box-sizing: border-box; font: inherit; padding: 0.4rem 0.6rem; width: 100%; }
[hidden] { display: none; }
</style>
</head>
<body>
<main>
<p><a href="./">Back to the console</a></p>
<h1>{{.Title}} API</h1>
<p>{{.Summary}} The description that this page shows: <a href="openapi.yaml">openapi.yaml</a> (OpenAPI 3.1).</p>
{{range paragraphs .Description}}<p>{{text .}}</p>
{{end}}<h2>Authorization</h2>
<p><code>Authorization: Bearer</code> and a JWT, on everything but the routes under “operations”.</p>
<p>{{text .Auth}}</p>
<p><code>X-Api-Key</code>: {{text .Key}}</p>
<p><input id="find" type="search" aria-label="Search the calls" placeholder="Search the calls: a path, a member, a code" autocomplete="off"></p>
<nav aria-label="Calls">
<ul>
{{range .Tags}}{{range .Calls}}<li><a href="#{{anchor .Method .Path}}"><code>{{.Method}} {{.Path}}</code></a></li>
{{end}}{{end}}</ul>
</nav>
{{range .Tags}}<h2>{{.Name}}</h2>
<p>{{.Description}}</p>
{{range .Calls}}<section class="call" id="{{anchor .Method .Path}}">
<h3><code><span class="method">{{.Method}}</span> {{.Path}}</code></h3>
<p><strong>{{.Summary}}.</strong> {{text .Description}}</p>
<pre>{{.Curl}}</pre>
{{if .Parameters}}<table>
<tr><th>parameter</th><th>in</th><th>what it is</th></tr>
{{range .Parameters}}<tr><td><code>{{.Name}}</code></td><td>{{.In}}</td><td>{{text .Description}}</td></tr>
{{end}}</table>
{{end}}{{range .Bodies}}<details><summary>Body <code>{{.Type}}</code></summary>
{{if .Example}}<pre>{{.Example}}</pre>
{{end}}{{if .Schema}}<pre>{{.Schema}}</pre>
{{end}}</details>
{{end}}<table>
<tr><th>status</th><th>answer</th></tr>
{{range .Responses}}<tr><td>{{.Status}}</td><td>{{text .Description}}</td></tr>
{{end}}</table>
</section>
{{end}}{{end}}<h2>schemas</h2>
{{range .Schemas}}<details id="schema-{{.Name}}"><summary><code>{{.Name}}</code> {{text .Description}}</summary>
<pre>{{.Schema}}</pre>
</details>
{{end}}</main>
<script>{{.Script}}</script>
</body>
</html>
`))

// findScript hides the calls that do not hold what somebody looks for. Without it all are shown.
const findScript = `
const find = document.getElementById("find")
find.addEventListener("input", () => {
	const words = find.value.toLowerCase()
	for (const entry of document.querySelectorAll("nav li")) {
		const call = document.getElementById(entry.firstElementChild.hash.slice(1))
		entry.hidden = call.hidden = !call.textContent.toLowerCase().includes(words)
	}
})
`

// curl is a call as somebody types it, with the two variables that sluice dev prints.
func (c *docsCall) curl(open bool) string {
	path := strings.NewReplacer("{id}", "$ID", "{name}", "$NAME", "{tenant}", "$NAME", "{file_id}", "$ID", "{batch_id}", "$ID").Replace(c.Path)
	said := "curl -s"
	if c.Method != "GET" && (c.Method != "POST" || len(c.Bodies) == 0) {
		said += " -X " + c.Method
	}
	said += ` "$SLUICE_URL` + path + `"`
	if !open {
		said += ` -H "Authorization: Bearer $SLUICE_TOKEN"`
	}
	if len(c.Bodies) == 0 {
		return said
	}
	body := c.Bodies[0]
	for _, b := range c.Bodies { // one that somebody can send as it stands
		if b.Example != "" {
			body = b
			break
		}
	}
	switch {
	case body.Type == "multipart/form-data":
		return said + " -F purpose=batch -F file=@batch.jsonl"
	case body.Example == "":
		return said + " -H 'Content-Type: " + body.Type + "' -d @body"
	}
	return said + " -H 'Content-Type: " + body.Type + "' \\\n  --data-binary '" + strings.ReplaceAll(strings.TrimRight(body.Example, "\n"), "'", `'\''`) + "'"
}

type docsBody struct{ Type, Example, Schema string }
type docsNamed struct{ Name, In, Description, Status, Schema string }
type docsCall struct {
	Method, Path, Summary, Description string
	Curl                               string
	Parameters, Responses              []docsNamed
	Bodies                             []docsBody
}
type docsTag struct {
	Name, Description string
	Calls             []docsCall
}

func renderDocs(t *testing.T, doc *openapi3.T) []byte {
	t.Helper()
	page := struct {
		Made                                   template.HTML
		Title, Summary, Description, Auth, Key string
		Script                                 template.JS
		Tags                                   []docsTag
		Schemas                                []docsNamed
	}{Script: findScript, Made: "<!-- Made from openapi.yaml by go generate ./api; edit that. -->", Title: doc.Info.Title, Summary: doc.Info.Summary, Description: doc.Info.Description, Auth: doc.Components.SecuritySchemes["bearer"].Value.Description, Key: doc.Components.SecuritySchemes["key"].Value.Description}
	indent := func(ref *openapi3.SchemaRef) string {
		if ref == nil {
			return ""
		}
		b, err := json.Marshal(ref)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := json.Indent(&out, b, "", "  "); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	for _, tag := range doc.Tags {
		group := docsTag{Name: tag.Name, Description: tag.Description}
		for _, path := range doc.Paths.InMatchingOrder() {
			item := doc.Paths.Value(path)
			for _, method := range []string{"POST", "GET", "PUT", "PATCH", "DELETE"} {
				op := item.GetOperation(method)
				if op == nil || op.Tags[0] != tag.Name {
					continue
				}
				call := docsCall{Method: method, Path: path, Summary: op.Summary, Description: op.Description}
				for _, p := range append(slices.Clone(item.Parameters), op.Parameters...) {
					call.Parameters = append(call.Parameters, docsNamed{Name: p.Value.Name, In: p.Value.In, Description: p.Value.Description})
				}
				if op.RequestBody != nil {
					for _, media := range sortedKeys(op.RequestBody.Value.Content) {
						content := op.RequestBody.Value.Content[media]
						body := docsBody{Type: media, Schema: indent(content.Schema)}
						for _, name := range sortedKeys(content.Examples) {
							switch v := content.Examples[name].Value.Value.(type) {
							case string:
								body.Example = v
							default:
								b, err := json.Marshal(v)
								if err != nil {
									t.Fatal(err)
								}
								body.Example = string(b)
							}
						}
						call.Bodies = append(call.Bodies, body)
					}
				}
				for _, status := range sortedKeys(op.Responses.Map()) {
					call.Responses = append(call.Responses, docsNamed{Status: status, Description: *op.Responses.Value(status).Value.Description})
				}
				call.Curl = call.curl(op.Security != nil && len(*op.Security) == 0)
				group.Calls = append(group.Calls, call)
			}
		}
		slices.SortFunc(group.Calls, func(a, b docsCall) int { return strings.Compare(a.Path, b.Path) })
		page.Tags = append(page.Tags, group)
	}
	for _, name := range sortedKeys(doc.Components.Schemas) {
		s := doc.Components.Schemas[name]
		page.Schemas = append(page.Schemas, docsNamed{Name: name, Description: s.Value.Description, Schema: indent(s)})
	}
	var out bytes.Buffer
	if err := docsTemplate.Execute(&out, page); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func TestTheDocsPageShowsTheDescription(t *testing.T) {
	t.Parallel()
	want := renderDocs(t, openSpec(t).doc)
	if *update {
		if err := os.WriteFile("docs.html", want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if readFile(t, "docs.html") != string(want) {
		t.Error("docs.html is not what openapi.yaml makes: run go generate ./api")
	}
}

// Every call of the description is on the page, with a command line that a shell takes.
func TestTheDocsPageHasACommandForEachCall(t *testing.T) {
	t.Parallel()
	page, doc := readFile(t, "docs.html"), openSpec(t).doc
	calls := 0
	for _, item := range doc.Paths.Map() {
		calls += len(item.Operations())
	}
	commands := regexp.MustCompile(`(?s)<pre>(curl -s.*?)</pre>`).FindAllStringSubmatch(page, -1)
	if len(commands) != calls || strings.Count(page, `<section class="call"`) != calls {
		t.Errorf("%d commands and %d parts for %d calls", len(commands), strings.Count(page, `<section class="call"`), calls)
	}
	var script strings.Builder
	for _, c := range commands {
		command := html.UnescapeString(c[1])
		if strings.ContainsAny(strings.Split(command, "'")[0], "{}") {
			t.Errorf("%s has a part of a path that nobody fills in", command)
		}
		script.WriteString(command + "\n")
	}
	if shell, err := exec.LookPath("bash"); err == nil {
		if out, err := exec.CommandContext(t.Context(), shell, "-n", "-c", script.String()).CombinedOutput(); err != nil {
			t.Errorf("the commands: %v: %s", err, out)
		}
	}
}

func TestTheDocsPageAsksForNothing(t *testing.T) {
	t.Parallel()
	s := serve(t)
	r := s.call("GET", "/docs", "", nil).want(t, 200)
	if csp := r.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
		t.Errorf("Content-Security-Policy is %q", csp)
	}
	_, script, _ := strings.Cut(string(r.body), "<script>")
	script, _, _ = strings.Cut(script, "</script>")
	sum := sha256.Sum256([]byte(script))
	if csp := r.Header.Get("Content-Security-Policy"); script == "" || bytes.Count(r.body, []byte("<script")) != 1 || !strings.Contains(csp, "script-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"';") {
		t.Errorf("Content-Security-Policy is %q; it is not of the page's one script", csp)
	}
	for _, outside := range []string{"fetch(", "import", "<link", "<img", "src=", "@import", "url("} {
		if bytes.Contains(r.body, []byte(outside)) {
			t.Errorf("the page holds %q", outside)
		}
	}
	s.call("GET", "/docs", "", nil, "If-None-Match", r.Header.Get("ETag")).want(t, 304)
	spec := s.call("GET", "/openapi.yaml", "", nil).want(t, 200)
	if string(spec.body) != strings.Replace(readFile(t, "openapi.yaml"), "url: /\n", "url: "+public+"\n", 1) {
		t.Error("/openapi.yaml is not the file with the public address")
	}
}
