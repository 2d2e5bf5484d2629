// Command prove proves and measures Sluice. It builds the program, starts what
// it needs on free loopback ports (a real Redis, the program's processes, the
// strict fake provider) with its data in a temporary folder, and ends only what
// it started.
//
//	prove [--bin FILE] [--dir DIR] COMMAND [flags]
//
// A proof judges: its exit code is 1 when a guarantee was broken.
//
//	kill      no accepted job is lost and none is paid for twice without a reason,
//	          while workers, APIs and Redis are killed and workers are stopped
//	hooks     webhooks: deliveries a second, beside slow receivers, and none lost
//	          while workers and Redis are killed
//	poison    a job that its workers die of has an end, and takes nobody with it
//	hostile   a tenant that attacks slows no other past the bars
//	nodes     no accepted job, cancel or webhook is lost when primaries of Sentinel
//	          and of a cluster fail under load
//	proxies   restarts, waits, streams and large bodies behind nginx and HAProxy
//	versions   the release before and this one, beside each other and rolled back,
//	          keep the pace and lose nothing
//	sdks      the official SDKs of Anthropic and OpenAI, as they are, call by call and
//	          while processes are killed and connections cut
//	room      what is accepted has room to end in: intake says no before results fill
//	          Redis
//	batches   a batch of 100,000 lines in each provider's own form takes little memory of
//	          the API
//	console   each page of the console holds in a browser, for each role, in both
//	          themes, on a narrow and a wide screen
//	stall     workers that stand still now and then, or share their processors,
//	          use their allowance and pass it by nothing
//
// A measurement prints each figure beside the bar that the project holds itself
// to; its exit code is 0 whatever the figures are.
//
//	outage    an outage, a shared key, lost state, killed workers, a skewed clock
//	pace      share of the allowance used, 429s, gate and Redis calls a job
//	accounts   pools of several accounts: share of all allowances used, one that leaves and
//	          comes back
//	native    what the providers' own batches save on jobs that have time, deadlines met, and
//	          what is paid for in both lanes
//	far       calls a second of one worker that is far from Redis
//	submit    submits a second against a bare Echo + JWT + Asynq handler
//	pickup    from a submit to the provider while idle, and what idling costs
//	sync      what Prefer: wait adds to a direct call
//	streams   that streams are told as the provider sent them, and how far behind
//	memory    bytes of Redis a queued job
//	bodies    submit and drain rates of prompts in a folder, against small ones
//	traces    processor time of submits and calls with traces against without
//	seal      submit and drain rates, and processor time, of sealed jobs against plain ones
//	backlog   submit and drain rates with 200,000 jobs queued
//	lists     how long the console's pages take behind very many jobs, and what views cost
//	fair      how a pool's allowance is shared among tenants, in virtual time
//	abuse     how much abuse is found, how soon, and what else is taken for it, in virtual time
//
// Of each, prove COMMAND --help lists the flags. The exit code is 1 when
// something could not be measured, and 2 for wrong usage.
//
// The load and the provider are in this process and share the machine with what
// is measured: take the ratios, and repeat them on your machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/sluicehq/sluice/cmd/prove/abuse"
	"github.com/sluicehq/sluice/cmd/prove/bench"
	"github.com/sluicehq/sluice/cmd/prove/edge"
	"github.com/sluicehq/sluice/cmd/prove/fair"
	"github.com/sluicehq/sluice/cmd/prove/hooks"
	"github.com/sluicehq/sluice/cmd/prove/hostile"
	"github.com/sluicehq/sluice/cmd/prove/kill"
	"github.com/sluicehq/sluice/cmd/prove/outage"
	"github.com/sluicehq/sluice/cmd/prove/pages"
	"github.com/sluicehq/sluice/cmd/prove/rig"
	"github.com/sluicehq/sluice/cmd/prove/room"
	"github.com/sluicehq/sluice/cmd/prove/sdks"
)

// CLI is the command line.
type CLI struct {
	rig.Lab

	Kill     kill.Command    `cmd:"" help:"Prove that no job is lost or paid for twice, whatever is killed."`
	Hooks    hooks.Command   `cmd:"" help:"Measure the delivery of webhooks, and prove that none is lost."`
	Hostile  hostile.Command `cmd:"" help:"Prove that a tenant that attacks slows no other."`
	Outage   outage.Command  `cmd:"" help:"Measure an outage, a shared key, lost state, killed workers, a skewed clock."`
	Pace     bench.Pace      `cmd:"" help:"Measure the share of the allowance used, 429s, gate and Redis calls a job."`
	Accounts bench.Accounts  `cmd:"" help:"Measure pools of several accounts: what they use, and one that leaves and comes back."`
	Native   bench.Native    `cmd:"" help:"Measure what the providers' own batches save, the deadlines met, and what is paid for twice."`
	Poison   kill.Poison     `cmd:"" help:"Prove that a job that its workers die of ends, and takes nobody with it."`
	Nodes    kill.Nodes      `cmd:"" help:"Prove that nothing is lost when primaries of Sentinel and of a cluster fail."`
	Far      bench.Far       `cmd:"" help:"Measure the calls a second of one worker that is far from Redis."`
	Stall    bench.Stall     `cmd:"" help:"Prove that workers that stand still now and then keep to their allowance, and use it."`
	Submit   bench.Submit    `cmd:"" help:"Measure submits a second against a bare Echo + JWT + Asynq handler."`
	Pickup   bench.Pickup    `cmd:"" help:"Measure from a submit to the provider while idle, and what idling costs."`
	Sync     bench.Sync      `cmd:"" help:"Measure what Prefer: wait adds to a direct call."`
	Streams  bench.Streams   `cmd:"" help:"Compare streams with what the provider sent, and measure how far behind they are."`
	Memory   bench.Memory    `cmd:"" help:"Measure the bytes of Redis a queued job."`
	Backlog  bench.Backlog   `cmd:"" help:"Measure the submit and drain rates with 200,000 jobs queued."`
	Lists    bench.Lists     `cmd:"" help:"Measure the console's pages behind very many jobs, and what open views cost."`
	Batches  bench.Batches   `cmd:"" help:"Prove that large batches in the providers' own forms take little memory of the API."`
	Fair     fair.Command    `cmd:"" help:"Measure how a pool's allowance is shared among tenants, in virtual time."`
	Abuse    abuse.Command   `cmd:"" help:"Measure how much abuse is found, and what else is taken for it, in virtual time."`
	Bodies   bench.Bodies    `cmd:"" help:"Measure the submit and drain rates of prompts in a folder, against small ones in Redis."`
	Traces   bench.Traces    `cmd:"" help:"Measure what traces take of the processors."`
	Seal     bench.Seal      `cmd:"" help:"Measure what sealing costs submits and calls, against plain ones."`
	Proxies  edge.Command    `cmd:"" help:"Prove that restarts, waits, streams and large bodies go well behind nginx and HAProxy."`
	Versions kill.Versions   `cmd:"" help:"Prove that the release before and this one work beside each other, and back."`
	SDKs     sdks.Command    `cmd:"" name:"sdks" help:"Prove that official SDKs work with another base URL and key, whatever is killed."`
	Console  pages.Command   `cmd:"" help:"Prove that each page of the console holds in a browser, and take its picture."`
	Room     room.Command    `cmd:"" help:"Prove that what is accepted has room to end in, in a small Redis."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := program(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func program(ctx context.Context, args []string) int {
	if len(args) == 1 && args[0] == bench.ReferenceName {
		return code(bench.ServeReference(ctx))
	}
	var cli CLI
	parser := kong.Must(&cli, kong.Name("prove"), kong.Description("Proves and measures Sluice; go doc ./cmd/prove is its manual."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(&cli.Lab))
	command, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "prove:", err)
		if at, ok := errors.AsType[*kong.ParseError](err); ok {
			parser.Stdout = os.Stderr
			_ = at.Context.PrintUsage(false)
		}
		return 2
	}
	remove, err := cli.Open(ctx)
	if err == nil {
		err = command.Run()
	}
	return code(errors.Join(err, remove()))
}

func code(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, "prove:", err)
		return 1
	}
	return 0
}
