package queue

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// Missing returns the rules of an ACL that Asynq needs and Redis refuses: its keys
// and its channel.
func Missing(ctx context.Context, rdb redis.UniversalClient) (grants []string) {
	if redis.IsPermissionError(rdb.Del(ctx, "asynq:{sluice}:trial").Err()) {
		grants = append(grants, "~asynq:*")
	}
	if redis.IsPermissionError(rdb.Publish(ctx, "asynq:trial", "").Err()) {
		grants = append(grants, "&asynq:*")
	}
	return grants
}
