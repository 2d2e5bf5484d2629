package limit

import (
	"embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var luaFiles embed.FS

// The scripts, each with the chapters that it needs.
var (
	takeScript     = newScript("take", "state", "pace", "guard", "ledger", "learn", "book", "line")
	settleScript   = newScript("settle", "state", "pace", "guard", "ledger", "learn", "book", "line")
	renewScript    = newScript("renew", "state", "pace", "guard", "ledger", "learn", "book", "line")
	steerScript    = newScript("steer", "state", "pace", "guard", "ledger", "learn", "book", "line")
	leaveScript    = newScript("leave", "state", "pace", "guard", "ledger")
	peekScript     = newScript("peek", "state", "pace", "guard", "ledger")
	describeScript = newScript("describe", "state", "pace", "guard", "ledger")
)

// script is a file of lua/ behind its chapters, other files there, in their order.
type script struct {
	name     string
	chapters []string
	redis    *redis.Script
}

func newScript(name string, chapters ...string) *script {
	var text strings.Builder
	for _, f := range append(slices.Clone(chapters), name) {
		b, err := luaFiles.ReadFile("lua/" + f + ".lua")
		if err != nil {
			panic(err) // the list above names a file that is not there
		}
		text.Write(b)
	}
	return &script{name: name, chapters: chapters, redis: redis.NewScript(text.String())}
}

// common are the arguments that every script is given. The names of the JSON
// members are those in lua/state.lua.
type common struct {
	Holder      string   `json:"holder"`
	Lease       float64  `json:"lease"`
	Epoch       string   `json:"epoch"`
	Limits      [3]int64 `json:"limits"`
	Burst       int64    `json:"burst"`
	Concurrency int      `json:"concurrency"`
	Channel     string   `json:"channel"`
	Lifetime    float64  `json:"lifetime"`
}

func (c *common) fill(with common) { *c = with }

// arguments are a script's own arguments, with room for the common ones.
type arguments interface{ fill(with common) }

func parseEpoch(s string) (int64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, fmt.Errorf("read epoch: %w", err)
	}
	return int64(f), nil
}

// parseWait reads a time to wait, in µs.
func parseWait(s string) (time.Duration, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read wait: %w", err)
	}
	return time.Duration(n) * time.Microsecond, nil
}
