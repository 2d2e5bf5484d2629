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
}

func TestComposeFile(t *testing.T) {
	text := project(t, "docker-compose.yml")
	var file struct {
		Services map[string]composed `yaml:"services"`
	}
	if err := yaml.Unmarshal([]byte(text), &file); err != nil {
		t.Fatal(err)
	}
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
