package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// version is the release that this source is, or leads to.
const version = "0.2.0"

// VersionCmd prints the version.
type VersionCmd struct {
	JSON bool `name:"json" help:"Print one JSON object."`
}

// Run prints the version, the source's revision where the build recorded it,
// and the toolchain, on one line.
func (c VersionCmd) Run(env *Env) error {
	if c.JSON {
		return printValue(env.Stdout, struct {
			Version  string `json:"version"`
			Revision string `json:"revision"` // "": the build recorded none
			Go       string `json:"go"`
			System   string `json:"system"`
		}{version, strings.TrimSpace(revision()), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH})
	}
	_, err := fmt.Fprintln(env.Stdout, versionLine())
	return err
}

func versionLine() string {
	return fmt.Sprintf("sluice %s%s %s %s/%s", version, revision(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// buildInfo is the version as a metric.
func buildInfo() prometheus.Collector {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "sluice_build_info", Help: "1, with the version, the source's revision (none where the build recorded none) and the toolchain.",
	}, []string{"version", "revision", "go"})
	g.WithLabelValues(version, cmp.Or(strings.TrimSpace(revision()), "none"), runtime.Version()).Set(1)
	return g
}

// builtFrom is the source's revision as who builds it says, where the build does not see it: an
// image is built of the files alone. It is set by the linker.
var builtFrom string

func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	var rev, dirty string
	if builtFrom != "" {
		rev = " " + builtFrom[:min(12, len(builtFrom))]
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			rev = " " + s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+changes"
		}
	}
	if rev == "" {
		return ""
	}
	return rev + dirty
}
