package limit

// keyNames are the last parts of a gate's keys, in the order of KEYS in
// lua/state.lua, which says what each holds.
var keyNames = [...]string{"gate", "held", "booked", "classes", "ahead", "waiting", "wants", "holders"}

// channelName is the last part of the channel on which a gate's scripts speak to
// the processes.
const channelName = "say"

// names returns the keys and the channel of a pool's gate. All are in one slot of
// a cluster.
func names(prefix, pool string) (keys []string, channel string) {
	base := prefix + ":limit:{" + pool + "}:"
	for _, name := range keyNames {
		keys = append(keys, base+name)
	}
	return keys, base + channelName
}
