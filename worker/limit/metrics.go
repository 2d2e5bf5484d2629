package limit

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// dimensions are the names of the bounded dimensions, in the scripts' order.
var dimensions = [3]string{"requests", "input_tokens", "output_tokens"}

type metrics struct {
	acquires *prometheus.CounterVec
	settles  *prometheus.CounterVec
	level    *prometheus.GaugeVec
	wait     prometheus.Observer
	inflight prometheus.Gauge
	holds    prometheus.Counter
	soft     prometheus.Counter
	lost     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, pool string) (*metrics, error) {
	label := []string{"pool"}
	acquires := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_gate_acquires_total",
		Help: "Questions for a slot, by answer: granted at once, booked ahead, hold, far (line too long), full (concurrency), late (its time had passed, so it was given back), error.",
	}, []string{"pool", "result"})
	settles := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_gate_settles_total",
		Help: "Settlements, by kind: used, expected, input, back (handed back), unknown (expired before), error.",
	}, []string{"pool", "result"})
	level := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "sluice_gate_level",
		Help: "What the provider's bucket will hold once every granted call is done, as last settled here; negative is debt.",
	}, []string{"pool", "dimension"})
	wait := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "sluice_gate_wait_seconds", Help: "Time that calls waited for their turn.",
		Buckets: []float64{.001, .003, .01, .03, .1, .3, 1, 3, 10, 30, 100, 300},
	}, label)
	inflight := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "sluice_gate_in_flight", Help: "Reservations of all processes that are not settled, as last settled here.",
	}, label)
	holds := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_gate_holds_total", Help: "Holds of the whole pool that this process asked for.",
	}, label)
	soft := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_gate_soft_refusals_total", Help: "Short refusals by the provider that slowed the pace.",
	}, label)
	lost := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sluice_gate_state_lost_total", Help: "Times that the gate's state in Redis was found gone.",
	}, label)
	if reg != nil {
		err := errors.Join(
			register(reg, &acquires), register(reg, &settles), register(reg, &level), register(reg, &wait),
			register(reg, &inflight), register(reg, &holds), register(reg, &soft), register(reg, &lost),
		)
		if err != nil {
			return nil, err
		}
	}
	return &metrics{
		acquires: acquires, settles: settles, level: level, wait: wait.WithLabelValues(pool),
		inflight: inflight.WithLabelValues(pool), holds: holds.WithLabelValues(pool),
		soft: soft.WithLabelValues(pool), lost: lost.WithLabelValues(pool),
	}, nil
}

// register registers *c, or puts the one in *c that another pool's gate has
// registered before.
func register[C prometheus.Collector](reg prometheus.Registerer, c *C) error {
	err := reg.Register(*c)
	var have prometheus.AlreadyRegisteredError
	if errors.As(err, &have) {
		if same, ok := have.ExistingCollector.(C); ok {
			*c = same
			return nil
		}
	}
	return err
}
