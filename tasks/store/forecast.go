package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sluicehq/sluice/tasks"
)

var forecastScript = script("forecast")

// What is kept of forecasts, a pool: some hundred kilobytes at most.
const (
	awaitedMost   = 512       // forecasts whose job has not started
	awaitedLook   = 48        // of those, looked up at once
	ratiosKept    = 600       // of a class: of fewer, the median follows the last minutes, and is wrong for the next
	foretoldMost  = 8192      // that are scored
	foretoldFor   = time.Hour // are they told of
	lateTarget    = 0.1       // may start later than nine of ten are said to
	lateGamma     = 0.02      // how fast is learned what that takes
	forecastsMost = 128       // told that one script takes in
)

// Foretold takes in forecasts of a pool that were told, at most forecastsMost of them, and
// returns how far those before them were off, by class, and how many wait yet for their
// job to start.
func (s *Store) Foretold(ctx context.Context, pool string, told []tasks.Forecast) (learned [tasks.Classes]tasks.Correction, awaited int64, err error) {
	var rows []any
	for _, f := range told[:min(len(told), forecastsMost)] {
		rows = append(rows, f.Job, f.At.UnixMilli(), f.Predicted.Milliseconds(), f.Told.Milliseconds(), f.Late.Milliseconds(), int(f.Class))
	}
	reply, err := s.run(ctx, forecastScript, args{
		"pool": pool, "most": awaitedMost, "look": awaitedLook, "window": ratiosKept, "scored": foretoldMost, "target": lateTarget, "gamma": lateGamma,
	}, rows...).Slice()
	if err != nil {
		return learned, 0, fmt.Errorf("score the forecasts of pool %s: %w", pool, err)
	}
	for i := 1; i+3 < len(reply); i += 4 {
		c := tasks.Correction{Samples: num(reply[i+1])}
		c.Median, _ = strconv.ParseFloat(str(reply[i+2]), 64)
		c.Late, _ = strconv.ParseFloat(str(reply[i+3]), 64)
		if class := num(reply[i]); class >= 0 && class < tasks.Classes {
			learned[class] = c
		}
	}
	return learned, num(reply[0]), nil
}

// Score is how right the forecasts of a pool were that were told in the last hour before now.
func (s *Store) Score(ctx context.Context, pool string, now time.Time) (tasks.Score, error) {
	lines, err := s.rdb.LRange(ctx, s.keys.foretold(pool), 0, -1).Result()
	if err != nil {
		return tasks.Score{}, fmt.Errorf("read how right the forecasts of pool %s were: %w", pool, redisError(err))
	}
	return scoreOf(lines, now.Add(-foretoldFor)), nil
}

// one is a forecast that is scored, for as many as it stands for.
type one struct {
	ratio  float64
	weight int64
}

// scoreOf adds up the lines of forecasts that were told from since on.
func scoreOf(lines []string, since time.Time) (score tasks.Score) {
	var all []one
	inTime := int64(0)
	for _, line := range lines {
		f := strings.Fields(line)
		if len(f) != 4 || atoi(f[0]) < since.UnixMilli() {
			continue
		}
		weight := atoi(f[1])
		ratio, err := strconv.ParseFloat(f[2], 64)
		if err != nil {
			score.Censored += weight
			continue
		}
		all = append(all, one{ratio, weight})
		score.Samples += weight
		inTime += weight * atoi(f[3])
	}
	if score.Samples == 0 {
		return score
	}
	slices.SortFunc(all, func(a, b one) int {
		if a.ratio < b.ratio {
			return -1
		}
		return 1
	})
	score.P10, score.P50, score.P90 = quantile(all, score.Samples, 0.1), quantile(all, score.Samples, 0.5), quantile(all, score.Samples, 0.9)
	score.Coverage = float64(inTime) / float64(score.Samples)
	return score
}

// quantile is the ratio that a share of all is at most; they are in order.
func quantile(all []one, total int64, share float64) float64 {
	sum := int64(0)
	for _, o := range all {
		if sum += o.weight; float64(sum) >= share*float64(total) {
			return o.ratio
		}
	}
	return all[len(all)-1].ratio
}
