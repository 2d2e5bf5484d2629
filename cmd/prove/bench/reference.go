package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hibiken/asynq"
	"github.com/labstack/echo/v4"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// referenceName is the argument with which this program is the reference.
const referenceName = "reference"

// serveReference is what a team would write first, and what the submit rate is
// measured against: Echo, a JWT, one Asynq enqueue, 202. It has neither record,
// nor quota, nor idempotency, nor validation of a prompt.
func serveReference(ctx context.Context) error {
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

// reference starts the reference on the stack's Redis and returns its address.
func (st *stack) reference(ctx context.Context) (addr string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("start the reference: %w", err)
	}
	if addr, err = freeAddress(); err != nil {
		return "", err
	}
	c, err := st.child(referenceName, self,
		[]string{"BENCH_SECRET=" + st.secret, "BENCH_REDIS=" + st.rdb.Options().Addr, "BENCH_LISTEN=" + addr}, referenceName)
	if err != nil {
		return "", err
	}
	return addr, st.ready(ctx, c, func(ctx context.Context) bool {
		resp, err := get(ctx, "http://"+addr+"/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}
