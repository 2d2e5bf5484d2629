package bench

import (
	"context"
	"fmt"
	"strconv"

	"github.com/sluicehq/sluice/cmd/prove/rig"
)

// Memory measures what a queued job takes of Redis.
type Memory struct{ Options }

// Run fills Redis with single jobs, then with a batch.
func (m *Memory) Run(ctx context.Context, lab *rig.Lab) error {
	return m.measure(ctx, func(ctx context.Context) error {
		return m.with(ctx, lab, setup{name: "memory", aof: m.fsync("everysec"), limits: idle()}, func(st *stack) error { return st.measureMemory(ctx) })
	})
}

func (st *stack) measureMemory(ctx context.Context) error {
	const jobs = 10_000
	single, err := st.growth(ctx, jobs, func() error {
		_, err := submit(ctx, st.api, 16, st.singles(jobs, 1024, 256, 0))
		return err
	})
	if err != nil {
		return err
	}
	batch, err := st.growth(ctx, jobs, func() error { return st.fill(ctx, jobs, 1024) })
	if err != nil {
		return err
	}
	return report(fmt.Sprintf("memory: Redis's used_memory, %d queued jobs with a prompt of 1 KiB of random words, no worker", jobs), []figure{
		atMost("a job submitted alone", "%.2f KiB", single, 2.5, "the prompt included"),
		atMost("a line of a batch", "%.2f KiB", batch, 2.5, "the prompt included"),
	})
}

// growth is by how much a job's share of Redis's memory, in KiB, fill raises it.
func (st *stack) growth(ctx context.Context, jobs int, fill func() error) (float64, error) {
	before, err := st.memory(ctx)
	if err != nil {
		return 0, err
	}
	if err := fill(); err != nil {
		return 0, err
	}
	after, err := st.memory(ctx)
	return (after - before) / float64(jobs) / 1024, err
}

// memory is Redis's used_memory in bytes.
func (st *stack) memory(ctx context.Context) (float64, error) {
	info, err := st.Info(ctx, "memory")
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(info["used_memory"], 64)
}
