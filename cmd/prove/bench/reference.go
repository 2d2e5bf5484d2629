package bench

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hibiken/asynq"
	"github.com/labstack/echo/v4"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

// ReferenceName is the command with which this program is the reference.
const ReferenceName = "reference"

// ServeReference is what a team would write first, and what the submit rate is
// measured against: Echo, a JWT, one Asynq enqueue, 202. It has neither record,
// nor quota, nor idempotency, nor validation of a prompt.
func ServeReference(ctx context.Context) error {
	secret := []byte(os.Getenv("BENCH_SECRET"))
	rdb := redis.NewClient(&redis.Options{
		Addr: os.Getenv("BENCH_REDIS"), DB: 1, PoolSize: 64,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	defer rdb.Close()
	queue := asynq.NewClientFromRedisClient(rdb)
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"HS256"}), jwt.WithIssuer("sluice"), jwt.WithAudience("sluice"), jwt.WithExpirationRequired())

	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.GET("/readyz", func(c echo.Context) error { return c.NoContent(http.StatusOK) })
	e.POST("/v1/jobs", func(c echo.Context) error {
		raw, ok := strings.CutPrefix(c.Request().Header.Get(echo.HeaderAuthorization), "Bearer ")
		if !ok {
			return echo.ErrUnauthorized
		}
		if _, err := parser.Parse(raw, func(*jwt.Token) (any, error) { return secret, nil }); err != nil {
			return echo.ErrUnauthorized
		}
		var in struct {
			Model     string `json:"model"`
			Prompt    string `json:"prompt"`
			MaxTokens int    `json:"max_tokens"`
		}
		if err := c.Bind(&in); err != nil {
			return err
		}
		if in.Model == "" || in.Prompt == "" {
			return echo.ErrBadRequest
		}
		info, err := queue.EnqueueContext(c.Request().Context(), asynq.NewTask("prompt", []byte(in.Prompt)), asynq.Queue("prompts"))
		if err != nil {
			return fmt.Errorf("enqueue: %w", err)
		}
		return c.JSON(http.StatusAccepted, map[string]string{"id": info.ID, "status": "queued"})
	})

	ended := make(chan error, 1)
	go func() { ended <- e.Start(os.Getenv("BENCH_LISTEN")) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := e.Shutdown(stop)
	if serveErr := <-ended; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

// reference starts the reference on the stack's Redis. Its Ops is the address of
// everything that it serves.
func (st *stack) reference(ctx context.Context) (*rig.Proc, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start the reference: %w", err)
	}
	addr, err := rig.FreeAddress()
	if err != nil {
		return nil, err
	}
	p := &rig.Proc{
		Name: ReferenceName, Path: self, Args: []string{ReferenceName}, Ops: addr, Log: filepath.Join(st.Dir, "reference.log"),
		Env: append(os.Environ(), "BENCH_SECRET="+rig.Secret, "BENCH_REDIS="+st.RDB.Options().Addr, "BENCH_LISTEN="+addr),
	}
	if err := p.Start(); err != nil {
		return nil, err
	}
	if err := p.AwaitReady(ctx); err != nil {
		return nil, errors.Join(err, p.Kill())
	}
	return p, nil
}
