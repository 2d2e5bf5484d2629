package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sluicehq/sluice/worker/pool"
)

// Notices are what is allowed and can hardly be meant: a pool that no job ever goes to, and a
// provider that no pool uses.
func (c *Config) Notices() (list []string) {
	used := map[string]bool{}
	for i, p := range c.Pools {
		for _, a := range c.AccountsOf(p) {
			used[a.Provider] = true
		}
		if over := c.shadows(i); len(over) > 0 {
			list = append(list, fmt.Sprintf("pools.%s serves nothing: its models all go to %s, before it in the file.", p.Name, strings.Join(over, ", ")))
		}
	}
	for _, p := range c.Providers {
		if !used[p.Name] && !p.Fake {
			list = append(list, fmt.Sprintf("providers.%s is used by no pool.", p.Name))
		}
	}
	return list
}

// shadows are the pools before a pool that have all its globs between them; nil: it is the first
// to serve one. Only a pool of the same dialect takes from another what comes in a provider's own
// form.
func (c *Config) shadows(i int) (over []string) {
	dialect := func(p Pool) string {
		of, _ := c.ProviderOf(p.Name)
		return of.Dialect
	}
	for _, glob := range c.Pools[i].Models {
		by := slices.IndexFunc(c.Pools[:i], func(p Pool) bool {
			return dialect(p) == dialect(c.Pools[i]) && slices.ContainsFunc(p.Models, func(g string) bool { return covers(g, glob) })
		})
		if by < 0 {
			return nil
		}
		if name := "pools." + c.Pools[by].Name; !slices.Contains(over, name) {
			over = append(over, name)
		}
	}
	return over
}

// covers reports that whatever a glob matches, another one does; false: it may.
func covers(wide, glob string) bool {
	return wide == glob || !strings.ContainsAny(wide, `?[\`) && pool.Serves([]string{wide}, glob)
}
