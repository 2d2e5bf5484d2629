package redistest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// Holding returns the keys that hold a text, in their name or anywhere in their
// value, whatever its type.
func Holding(tb testing.TB, rdb redis.UniversalClient, text string) []string {
	tb.Helper()
	ctx := tb.Context()
	var found []string
	keys := rdb.Scan(ctx, 0, "*", 1000).Iterator()
	for keys.Next(ctx) {
		key := keys.Val()
		kind := rdb.Type(ctx, key).Val()
		var value any
		var err error
		switch kind {
		case "none": // it has expired meanwhile
		case "string":
			value, err = rdb.Get(ctx, key).Result()
		case "hash":
			value, err = rdb.HGetAll(ctx, key).Result()
		case "list":
			value, err = rdb.LRange(ctx, key, 0, -1).Result()
		case "set":
			value, err = rdb.SMembers(ctx, key).Result()
		case "zset":
			value, err = rdb.ZRange(ctx, key, 0, -1).Result()
		default:
			tb.Fatalf("%s is a %s, which nobody here reads", key, kind)
		}
		if err != nil && err != redis.Nil {
			tb.Fatalf("read %s: %v", key, err)
		}
		if strings.Contains(key, text) || strings.Contains(fmt.Sprint(value), text) {
			found = append(found, key)
		}
	}
	if err := keys.Err(); err != nil {
		tb.Fatalf("look through Redis: %v", err)
	}
	return found
}
