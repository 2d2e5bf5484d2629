package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"
)

// bill is a bill of materials in the form of CycloneDX 1.6 (cyclonedx.org), as much of it as a
// program of Go knows of itself.
type bill struct {
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl,omitempty"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref string   `json:"ref"`
	On  []string `json:"dependsOn"`
}

// sbom reads what a program was built of, from the program itself.
func sbom(program, name, version string, at time.Time) ([]byte, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return nil, fmt.Errorf("read what %s was built of: %w", name, err)
	}
	b, err := os.ReadFile(program)
	if err != nil {
		return nil, err
	}
	own := component{
		Type: "application", Ref: "pkg:golang/" + info.Main.Path + "@v" + version, Name: "sluice", Version: version, PURL: "pkg:golang/" + info.Main.Path + "@v" + version,
		Hashes: []hash{{"SHA-256", fmt.Sprintf("%x", sha256.Sum256(b))}},
	}
	for _, s := range info.Settings {
		if s.Key == "GOOS" || s.Key == "GOARCH" || s.Key == "CGO_ENABLED" || strings.HasPrefix(s.Key, "vcs.") {
			own.Properties = append(own.Properties, property{"go:" + s.Key, s.Value})
		}
	}
	toolchain := strings.TrimPrefix(info.GoVersion, "go")
	std := component{Type: "library", Ref: "pkg:golang/std@" + toolchain, Name: "std", Version: toolchain, PURL: "pkg:golang/std@" + toolchain}
	out := bill{Format: "CycloneDX", Spec: "1.6", Version: 1, Metadata: metadata{at.Format(time.RFC3339), own}, Components: []component{std}}
	on := []string{std.Ref}
	for _, m := range info.Deps {
		c, err := moduleOf(m)
		if err != nil {
			return nil, err
		}
		out.Components, on = append(out.Components, c), append(on, c.Ref)
	}
	out.Dependencies = []dependency{{own.Ref, on}}
	text, err := json.MarshalIndent(out, "", "  ")
	return append(text, '\n'), err
}

// moduleOf is a module as it was built in, with the digest of its files that go.sum has (h1).
func moduleOf(m *debug.Module) (component, error) {
	if m.Replace != nil {
		m = m.Replace
	}
	purl := "pkg:golang/" + m.Path + "@" + m.Version
	c := component{Type: "library", Ref: purl, Name: m.Path, Version: m.Version, PURL: purl}
	if text, ok := strings.CutPrefix(m.Sum, "h1:"); ok {
		sum, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return c, fmt.Errorf("the sum of %s: %w", m.Path, err)
		}
		// The digest of the list of its files, not of an archive.
		c.Properties = []property{{"go:sum", fmt.Sprintf("h1 %x", sum)}}
	}
	return c, nil
}
