package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/sluicehq/sluice/cmd/sluice/config"
)

// What the files for operators say is held to what the program takes.

func project(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

type composed struct {
	Command     []string          `yaml:"command"`
	Environment map[string]string `yaml:"environment"`
	DependsOn   map[string]struct {
		Condition string `yaml:"condition"`
	} `yaml:"depends_on"`
	Healthcheck struct {
		Test []string `yaml:"test"`
	} `yaml:"healthcheck"`
	Deploy struct {
		Replicas int `yaml:"replicas"`
	} `yaml:"deploy"`
	Build struct {
		Context string            `yaml:"context"`
		Args    map[string]string `yaml:"args"`
	} `yaml:"build"`
	Volumes []string `yaml:"volumes"`
	EnvFile []struct {
		Path     string `yaml:"path"`
		Required bool   `yaml:"required"`
	} `yaml:"env_file"`
	Logging struct {
		Driver  string            `yaml:"driver"`
		Options map[string]string `yaml:"options"`
	} `yaml:"logging"`
	Networks []string `yaml:"networks"`
	Ports    []string `yaml:"ports"`
	Secrets  []string `yaml:"secrets"`
}

// Composition is docker-compose.yml as compose reads it.
type Composition struct {
	Services map[string]composed `yaml:"services"`
	Networks map[string]struct {
		Internal bool `yaml:"internal"`
	} `yaml:"networks"`
	Secrets map[string]struct {
		File string `yaml:"file"`
	} `yaml:"secrets"`
	dotenv map[string]string
}

// Compose reads docker-compose.yml with these variables in .env.
func Compose(t *testing.T, dotenv map[string]string) (c Composition, err error) {
	t.Helper()
	var raw any
	if err := yaml.Unmarshal([]byte(project(t, "docker-compose.yml")), &raw); err != nil {
		t.Fatal(err)
	}
	var filled func(v any) any
	filled = func(v any) any {
		switch v := v.(type) {
		case string:
			text, wrong := interpolate(v, dotenv)
			err = errors.Join(err, wrong)
			return text
		case []any:
			for i := range v {
				v[i] = filled(v[i])
			}
		case map[string]any:
			for k := range v {
				v[k] = filled(v[k])
			}
		}
		return v
	}
	text, wrong := yaml.Marshal(filled(raw))
	if wrong == nil {
		wrong = yaml.Unmarshal(text, &c)
	}
	if wrong != nil {
		t.Fatal(wrong)
	}
	c.dotenv = dotenv
	return c, err
}

// Environ is what a service's process has in its environment: what env_file names, and over it
// what the service sets.
func (c Composition) Environ(service string) map[string]string {
	out := map[string]string{}
	if len(c.Services[service].EnvFile) > 0 {
		maps.Copy(out, c.dotenv)
	}
	maps.Copy(out, c.Services[service].Environment)
	return out
}

// interpolate puts variables into a text as compose does.
func interpolate(s string, vars map[string]string) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(s, "$")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		if after, ok := strings.CutPrefix(rest, "$"); ok {
			out.WriteString("$")
			s = after
			continue
		}
		end, depth := -1, 0
		for i, r := range rest {
			if r == '{' {
				depth++
			} else if r == '}' {
				depth--
			}
			if depth == 0 {
				end = i
				break
			}
		}
		m := regexp.MustCompile(`^\{([A-Z0-9_]+)(?:(:[-+?])(.*))?\}$`).FindStringSubmatch(rest[:end+1])
		if m == nil {
			return "", fmt.Errorf("%q cannot be read", s)
		}
		value := vars[m[1]]
		var err error
		switch {
		case m[2] == ":-" && value == "", m[2] == ":+" && value != "":
			value, err = interpolate(m[3], vars)
		case m[2] == ":?" && value == "":
			err = fmt.Errorf("%s is missing: %s", m[1], m[3])
		}
		if err != nil {
			return "", err
		}
		out.WriteString(value)
		s = rest[end+1:]
	}
}

// example are the variables of .env.example.
func example(t *testing.T) map[string]string {
	t.Helper()
	vars := map[string]string{}
	for line := range strings.Lines(project(t, ".env.example")) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(k, "#") {
			vars[k] = v
		}
	}
	return vars
}

// The image is built once, every log is bounded, and both roles take settings from .env and
// from the mounted file.
func TestComposeCanBeConfigured(t *testing.T) {
	t.Parallel()
	file, err := Compose(t, map[string]string{"SLUICE_AUTH__HMAC_SECRET": "x"})
	if err != nil {
		t.Fatal(err)
	}
	var built []string
	for name, s := range file.Services {
		if s.Build.Context != "" {
			built = append(built, name)
			if _, ok := s.Build.Args["REVISION"]; !ok || !strings.Contains(project(t, "Dockerfile"), "\nARG REVISION=\n") {
				t.Errorf("%s is built with %v, without its revision", name, s.Build.Args)
			}
		}
		if s.Logging.Driver != "json-file" || s.Logging.Options["max-size"] == "" || s.Logging.Options["max-file"] == "" {
			t.Errorf("the log of %s is not rotated: %+v", name, s.Logging)
		}
	}
	if !slices.Equal(built, []string{"api"}) {
		t.Errorf("the image is built for %q; want the API alone", built)
	}
	for _, role := range []string{"api", "worker"} {
		s := file.Services[role]
		if len(s.EnvFile) != 1 || s.EnvFile[0].Path != ".env" || s.EnvFile[0].Required {
			t.Errorf("%s takes settings from %+v", role, s.EnvFile)
		}
		if !slices.Contains(s.Volumes, "./deploy/sluice.yaml:/sluice.yaml:ro") {
			t.Errorf("%s mounts %q, not its configuration", role, s.Volumes)
		}
	}
}

// The mounted file is taken as it is, and with each of its examples in force.
func TestTheConfigurationsOfDeployAreTaken(t *testing.T) {
	t.Parallel()
	sample := project(t, "deploy/sluice.yaml")
	examples := regexp.MustCompile(`(?m)^#(  .*|[a-z].*)$`)
	if n := len(examples.FindAllString(sample, -1)); n < 10 {
		t.Fatalf("deploy/sluice.yaml has %d lines of examples", n)
	}
	manifest := regexp.MustCompile(`(?ms)^  sluice\.yaml: \|\n(.*?)^---`).FindStringSubmatch(project(t, "deploy/kubernetes/sluice.yaml"))
	if manifest == nil {
		t.Fatal("the manifests have no configuration")
	}
	for name, text := range map[string]string{
		"deploy/sluice.yaml":                    sample,
		"deploy/sluice.yaml, with its examples": examples.ReplaceAllString(sample, "$1"),
		"deploy/kubernetes/sluice.yaml":         regexp.MustCompile(`(?m)^    `).ReplaceAllString(manifest[1], ""),
	} {
		path := filepath.Join(t.TempDir(), "sluice.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		environ := []string{"HOME=/h", "SLUICE_AUTH__HMAC_SECRET=" + strings.Repeat("s", 32), "SLUICE_REDIS__URL=redis://redis:6379/0"}
		if strings.Contains(text, "\nproviders:") {
			environ = append(environ, "SLUICE_PROVIDERS__ANTHROPIC__API_KEY=k")
		}
		if _, faults := config.Load(path, environ); len(faults) > 0 {
			t.Errorf("%s is refused: %v", name, faults)
		}
	}
}

// .env.example serves with a secret filled in, in .env or in a file, and with nothing else; without one compose
// says so before anything starts.
func TestComposeFile(t *testing.T) {
	inEnv, inFile := example(t), example(t)
	if _, err := Compose(t, inEnv); err == nil || !strings.Contains(err.Error(), ".env.example") {
		t.Errorf("without a secret: %v", err)
	}
	inEnv["SLUICE_AUTH__HMAC_SECRET"], inFile["SLUICE_AUTH__HMAC_SECRET_FILE"] = strings.Repeat("s", 32), "./secret"
	secret := filepath.Join(t.TempDir(), "secret")
	password := filepath.Join(t.TempDir(), "password")
	for _, file := range []string{secret, password} {
		if err := os.WriteFile(file, []byte(strings.Repeat("s", 32)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]Composition{}
	for name, dotenv := range map[string]map[string]string{"in .env": inEnv, "in a file": inFile} {
		file, err := Compose(t, dotenv)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		files[name] = file
	}
	t.Chdir(t.TempDir())
	for name, file := range files {
		redis := strings.Join(file.Services["redis"].Command, " ")
		for _, want := range []string{"--appendonly yes", "--appendfsync always", "--maxmemory 1gb", "--maxmemory-policy noeviction"} {
			if !strings.Contains(redis, want) {
				t.Errorf("redis runs as %q; want %s", redis, want)
			}
		}
		for _, role := range []string{"api", "worker"} {
			s := file.Services[role]
			if !slices.Equal(s.Command, []string{role}) || s.DependsOn["redis"].Condition != "service_healthy" || len(s.Healthcheck.Test) == 0 {
				t.Errorf("%s: %+v", role, s)
			}
			environ := []string{"HOME=/h"}
			for k, v := range file.Environ(role) {
				environ = append(environ, k+"="+strings.NewReplacer("/run/secrets/hmac_secret", secret, "/run/redis/password", password).Replace(v))
			}
			if _, faults := config.Load("", environ); len(faults) > 0 {
				t.Errorf("%s, %s: its environment is refused: %v", role, name, faults)
			}
		}
		if n := file.Services["worker"].Deploy.Replicas; n != 2 {
			t.Errorf("%d workers; want 2", n)
		}
	}
}

// Each process has the secrets that it needs and no others, whichever way they are given; what is named
// in a file is mounted; Redis has none, and its own passwords lie where one role each finds its own.
func TestComposeGivesEachRoleItsOwnSecrets(t *testing.T) {
	t.Parallel()
	given := map[string][]string{ // by who has them
		"SLUICE_AUTH__HMAC_SECRET":   {"api"},
		"SLUICE_WEBHOOKS__HEADERS":   {"worker"},
		"ANTHROPIC_API_KEY":          {"api", "worker"},
		"OPENAI_API_KEY":             {"api", "worker"},
		"SLUICE_SEAL__KEYS":          {"api", "worker"},
		"SLUICE_BODIES__SECRET_KEY":  {"api", "worker"},
		"SLUICE_PROVIDERS__X__API_K": {"api", "worker"},
	}
	files := map[string][]string{
		"SLUICE_AUTH__HMAC_SECRET_FILE": {"api"}, "ANTHROPIC_API_KEY_FILE": {"api", "worker"}, "OPENAI_API_KEY_FILE": {"api", "worker"}, "SLUICE_SEAL__KEYS_FILE": {"api", "worker"},
	}
	inEnv, inFiles := map[string]string{}, map[string]string{}
	for name := range given {
		inEnv[name] = "secret of " + name
	}
	for name := range files {
		inFiles[name] = "./of/" + name
	}
	plain, err := Compose(t, inEnv)
	if err != nil {
		t.Fatal(err)
	}
	named, err := Compose(t, inFiles)
	if err != nil {
		t.Fatal(err)
	}
	for service := range plain.Services {
		for name, who := range given {
			found := slices.ContainsFunc(slices.Collect(maps.Values(plain.Environ(service))), func(v string) bool { return strings.Contains(v, inEnv[name]) })
			if found != slices.Contains(who, service) {
				t.Errorf("%s has %s: %v; want it with %q alone", service, name, found, who)
			}
		}
		for name, who := range files {
			at, ok := strings.CutPrefix(named.Environ(service)[name], "/run/secrets/")
			mounted := ok && slices.Contains(named.Services[service].Secrets, at) && named.Secrets[at].File == inFiles[name]
			if mounted != slices.Contains(who, service) || at != "" && !mounted {
				t.Errorf("%s has the file of %s at %q, mounted: %v; want it with %q alone", service, name, at, mounted, who)
			}
		}
		if n := len(named.Services[service].Secrets); n != len(slices.DeleteFunc(slices.Collect(maps.Values(files)), func(who []string) bool { return !slices.Contains(who, service) })) {
			t.Errorf("%s mounts %d secrets: %q", service, n, named.Services[service].Secrets)
		}
		for _, v := range plain.Services[service].Volumes {
			volume, _, _ := strings.Cut(v, ":")
			if strings.HasPrefix(volume, "redis") != slices.Contains(map[string][]string{"redis": {"redis", "redis-api", "redis-worker"}, "api": {"redis-api"}, "worker": {"redis-worker"}}[service], volume) {
				t.Errorf("%s mounts %s", service, v)
			}
		}
	}
	for name, s := range plain.Secrets { // what no file is named for
		if info, err := os.Stat(filepath.Join("..", "..", s.File)); err != nil || info.Size() != 0 {
			t.Errorf("%s is by default the file %s: %v", name, s.File, err)
		}
	}
	foreign, err := Compose(t, map[string]string{"SLUICE_AUTH__HMAC_SECRET": "x", "SLUICE_REDIS__URL": "redis://u:p@elsewhere"})
	if err != nil || foreign.Environ("api")["SLUICE_REDIS__URL"] != "redis://u:p@elsewhere" || foreign.Environ("worker")["SLUICE_REDIS__PASSWORD_FILE"] != "" {
		t.Errorf("another Redis: %v, %v", foreign.Environ("api"), err)
	}
}

// Redis is reached by the API and the workers alone, and reaches nobody; what is published is for this machine.
func TestComposeShowsNothingToTheNetwork(t *testing.T) {
	t.Parallel()
	file, err := Compose(t, map[string]string{"SLUICE_AUTH__HMAC_SECRET": "x"})
	if err != nil {
		t.Fatal(err)
	}
	if !file.Networks["redis"].Internal {
		t.Error("Redis's network leads out")
	}
	for name, s := range file.Services {
		if on := slices.Contains(s.Networks, "redis"); on != slices.Contains([]string{"redis", "api", "worker"}, name) {
			t.Errorf("%s is on Redis's network: %v", name, on)
		}
		if name == "redis" && (len(s.Networks) != 1 || len(s.Ports) > 0) {
			t.Errorf("Redis is on %q and publishes %q", s.Networks, s.Ports)
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s publishes %s", name, p)
			}
		}
	}
}

// What the users of compose's Redis may is what README lists as the least, and to ask how it syncs its file.
func TestTheUsersOfComposesRedisMayTheLeast(t *testing.T) {
	t.Parallel()
	_, least, ok := strings.Cut(project(t, "README.md"), "ACL SETUSER app on >password ")
	least, _, _ = strings.Cut(least, "\n")
	role := regexp.MustCompile(`(?m)^role="(.*)"$`).FindStringSubmatch(project(t, "deploy/redis.sh"))
	if !ok || role == nil || strings.ReplaceAll(role[1], "$prefix", "sluice") != least+" +config|get" {
		t.Errorf("README lists %q, deploy/redis.sh %q", least, role)
	}
}

func TestExampleEnvironmentNamesWhatTheComposeFileAsksAndHoldsNoSecret(t *testing.T) {
	named := example(t)
	asked := regexp.MustCompile(`\$\{([A-Z0-9_]+)`).FindAllStringSubmatch(project(t, "docker-compose.yml"), -1)
	if len(asked) == 0 {
		t.Fatal("the compose file asks for nothing")
	}
	for _, m := range asked {
		v, ok := named[m[1]]
		if !ok {
			t.Errorf("%s is not in .env.example", m[1])
		}
		if (strings.Contains(m[1], "KEY") || strings.Contains(m[1], "SECRET")) && v != "" {
			t.Errorf("%s has a value in .env.example", m[1])
		}
	}
}

func TestImageSetsOnlySettings(t *testing.T) {
	environ := []string{}
	for _, m := range regexp.MustCompile(`(SLUICE_[A-Z_]+)=(\S+)`).FindAllStringSubmatch(project(t, "Dockerfile"), -1) {
		environ = append(environ, m[1]+"="+m[2])
	}
	if len(environ) < 3 {
		t.Fatalf("the image sets %q", environ)
	}
	t.Chdir(t.TempDir())
	if _, faults := config.Load("", environ); len(faults) > 0 {
		t.Errorf("the image's environment is refused: %v", faults)
	}
}
