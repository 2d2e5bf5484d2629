package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// mayImport is the house rule: who may import what outside the standard library.
// Prometheus is open to all but tasks, and a program under cmd without a row may import anything.
// A name that begins with "/" is a package of ours; one that ends in "/..."
// includes what is under it.
var mayImport = map[string][]string{
	"/tasks":                {},
	"/tasks/bodies":         {"/tasks", "github.com/minio/minio-go/v7/...", "golang.org/x/sys/unix"},
	"/tasks/dispatch":       {"/tasks", "/tasks/store", "/tasks/queue", "/tasks/gather"},
	"/tasks/estimate":       {"/tasks", jsonLib},
	"/tasks/gather":         {},
	"/tasks/pipeline":       {redisClient},
	"/tasks/store":          {"/tasks", "/tasks/bodies", "/tasks/seal", "/tasks/pipeline", redisClient, "github.com/klauspost/compress/s2", "github.com/klauspost/compress/zstd", "github.com/oklog/ulid/v2"},
	"/tasks/queue":          {"/tasks", "/tasks/pipeline", asynqLib, redisClient},
	"/tasks/seal":           {},
	"/tasks/trace":          {"/tasks", "google.golang.org/protobuf/encoding/protowire"},
	"/tasks/redisd":         {redisClient, "github.com/alicebob/miniredis/v2/..."},
	"/tasks/redistest":      {redisClient},
	"/api":                  {"/tasks", "/tasks/trace", "/api/...", echoLib},
	"/api/v1":               {"/tasks", "/tasks/estimate", "/api/abuse", "/api/auth", "/api/desk", "/api/fault", "/api/header", "/api/jsonread", "/api/jsonwrite", "/api/quota", "/api/wire", echoLib, jsonLib},
	"/api/anthropic":        {"/tasks", "/tasks/estimate", "/api/desk", "/api/fault", "/api/header", "/api/jsonread", "/api/jsonwrite", "/api/relay", "/api/wire", echoLib, jsonLib},
	"/api/openai":           {"/tasks", "/tasks/estimate", "/api/desk", "/api/fault", "/api/header", "/api/jsonread", "/api/jsonwrite", "/api/relay", "/api/wire", echoLib},
	"/api/relay":            {"/tasks", "/tasks/estimate", "/api/desk", "/api/fault", "/api/header", "/api/jsonread", "/api/jsonwrite", "/api/wire", echoLib},
	"/api/header":           {"/tasks", "/api/fault"},
	"/api/caps":             {"/api/fault", "golang.org/x/time/rate"},
	"/api/wire":             {"/api/fault", "/api/jsonread", jsonLib},
	"/api/desk":             {"/tasks", "/tasks/trace", "/api/abuse", "/api/caps", "/api/fault", "/api/quota"},
	"/api/fault":            {"/tasks", "/api/auth"},
	"/api/jsonread":         {jsonLib},
	"/api/jsonwrite":        {jsonLib},
	"/api/auth":             {"/tasks", jsonLib, "github.com/golang-jwt/jwt/v5"},
	"/api/abuse":            {"/tasks"},
	"/api/quota":            {"/tasks", "/tasks/gather", redisClient},
	"/worker":               {"/tasks", "/tasks/pipeline", "/tasks/queue", "/tasks/trace", "/worker/...", asynqLib, redisClient, "golang.org/x/sync/errgroup"},
	"/worker/limit":         {redisClient},
	"/worker/pause":         {redisClient},
	"/worker/pool":          {"/tasks", "/worker/limit", "/worker/pause", "/worker/upstream"},
	"/worker/spill":         {"/tasks"},
	"/worker/native":        {"/tasks", "/worker/upstream", "golang.org/x/sync/errgroup"},
	"/worker/egress":        {"golang.org/x/net/proxy"},
	"/worker/upstream":      {"/tasks", "/tasks/estimate", "/worker/egress", jsonLib},
	"/worker/upstream/fake": {},
	"/worker/webhook":       {"/tasks", "code.dny.dev/ssrf"},
	"/web":                  {"/tasks", asynqLib, "github.com/hibiken/asynqmon"},

	"/cmd/sluice/drain": {"/tasks", "/tasks/estimate", "/api/v1", "/worker/pause", "/worker/pool", jsonLib, "github.com/santhosh-tekuri/jsonschema/v6"},
	// A simulation is the desk, the record, the gate and the forecasts as they are, without Asynq and providers.
	"/cmd/sluice/simulate": {"/api/caps", "/api/desk", "/api/fault", "/api/quota", "/tasks", "/tasks/store", "/worker/limit", "/worker/pause", "/worker/pool", redisClient},
	"/cmd/sluice/config":   {"/api/auth", "/tasks", "/tasks/bodies", "/tasks/seal", "/tasks/queue", "/worker/egress", "/worker/pool", redisClient, "github.com/goccy/go-yaml/..."},
}

// importedBy is who alone may import a part of a program.
var importedBy = map[string]string{
	"/cmd/sluice/config":   "/cmd/sluice",
	"/cmd/sluice/drain":    "/cmd/sluice",
	"/cmd/sluice/simulate": "/cmd/sluice",
}

const (
	ours        = "github.com/sluicehq/sluice"
	redisClient = "github.com/redis/go-redis/v9/..."
	asynqLib    = "github.com/hibiken/asynq"
	echoLib     = "github.com/labstack/echo/v4/..."
	jsonLib     = "github.com/go-json-experiment/json/..."
	metricsLib  = "github.com/prometheus/client_golang/prometheus/..."
)

func TestImports(t *testing.T) {
	list := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", "./...")
	list.Dir = "../.."
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := map[string]bool{}
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, ours)
		for _, i := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if only := importedBy[strings.TrimPrefix(i, ours)]; only != "" && only != name {
				t.Errorf("%s imports %s, which is part of %s", name, i, only)
			}
		}
		may, ok := mayImport[name]
		if name == "" || !ok && strings.HasPrefix(name, "/cmd/") {
			continue // a program, or nothing but the module's list of tools
		}
		if !ok {
			t.Errorf("%s has no row in the table", name)
			continue
		}
		seen[name] = true
		if name != "/tasks" {
			may = append(slices.Clone(may), metricsLib)
		}
		for _, i := range p.Imports {
			if first, _, _ := strings.Cut(i, "/"); !strings.Contains(first, ".") {
				continue // the standard library
			}
			i = strings.TrimPrefix(i, ours)
			if !slices.ContainsFunc(may, func(m string) bool { return covers(m, i) }) || i == "/tasks/redistest" || strings.HasPrefix(i, "/cmd/") {
				t.Errorf("%s imports %s", name, i)
			}
		}
	}
	for name := range mayImport {
		if !seen[name] {
			t.Errorf("the table names %s, which does not exist", name)
		}
	}
}

// covers reports whether an entry of the table allows the import.
func covers(entry, path string) bool {
	under, deep := strings.CutSuffix(entry, "...")
	if !deep {
		return entry == path
	}
	return strings.HasPrefix(path+"/", under)
}
