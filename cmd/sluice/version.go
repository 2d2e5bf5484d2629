package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is the release that this source is, or leads to.
const version = "0.2.0"

// VersionCmd prints the version.
type VersionCmd struct{}

// Run prints the version, the source's revision where the build recorded it,
// and the toolchain, on one line.
func (VersionCmd) Run(env *Env) error {
	_, err := fmt.Fprintf(env.Stdout, "sluice %s%s %s %s/%s\n", version, revision(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	var rev, dirty string
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
