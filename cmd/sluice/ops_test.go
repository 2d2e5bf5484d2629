package main

import (
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
	Build   string   `yaml:"build"`
	Volumes []string `yaml:"volumes"`
	EnvFile []struct {
		Path     string `yaml:"path"`
		Required bool   `yaml:"required"`
	} `yaml:"env_file"`
	Logging struct {
		Driver  string            `yaml:"driver"`
		Options map[string]string `yaml:"options"`
	} `yaml:"logging"`
}

// The image is built once, every log is bounded, and both roles take settings from .env and
// from the mounted file.
func TestComposeCanBeConfigured(t *testing.T) {
	t.Parallel()
	var file struct {
		Services map[string]composed `yaml:"services"`
	}
	if err := yaml.Unmarshal([]byte(project(t, "docker-compose.yml")), &file); err != nil {
		t.Fatal(err)
	}
	var built []string
	for name, s := range file.Services {
		if s.Build != "" {
			built = append(built, name)
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

func TestComposeFile(t *testing.T) {
	text := project(t, "docker-compose.yml")
	var file struct {
		Services map[string]composed `yaml:"services"`
	}
	if err := yaml.Unmarshal([]byte(text), &file); err != nil {
		t.Fatal(err)
	}
	// As long as .env names no other, and with the one that its example names.
	redis := strings.ReplaceAll(strings.Join(file.Services["redis"].Command, " "), "${REDIS_MAXMEMORY:-1gb}", "1gb")
	if !strings.Contains(project(t, ".env.example"), "\nREDIS_MAXMEMORY=1gb\n") {
		t.Error(".env.example does not name the memory that Redis has by default")
	}
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
		for k, v := range s.Environment {
			if strings.Contains(v, ":?") {
				v = strings.Repeat("s", 32)
			} else if i := strings.Index(v, ":-"); i >= 0 {
				v = strings.TrimSuffix(v[i+2:], "}")
			}
			environ = append(environ, k+"="+v)
		}
		t.Chdir(t.TempDir())
		if _, faults := config.Load("", environ); len(faults) > 0 {
			t.Errorf("%s: its environment is refused: %v", role, faults)
		}
	}
	if n := file.Services["worker"].Deploy.Replicas; n != 2 {
		t.Errorf("%d workers; want 2", n)
	}
}

func TestExampleEnvironmentNamesWhatTheComposeFileAsksAndHoldsNoSecret(t *testing.T) {
	example := map[string]string{}
	for line := range strings.Lines(project(t, ".env.example")) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(k, "#") {
			example[k] = v
		}
	}
	asked := regexp.MustCompile(`\$\{([A-Z0-9_]+)`).FindAllStringSubmatch(project(t, "docker-compose.yml"), -1)
	if len(asked) == 0 {
		t.Fatal("the compose file asks for nothing")
	}
	for _, m := range asked {
		v, ok := example[m[1]]
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
