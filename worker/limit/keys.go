package limit

// keyNames are the last parts of a gate's keys, in the order of KEYS in
// lua/state.lua, which says what each holds.
var keyNames = [...]string{"gate", "held", "booked", "classes", "ahead", "waiting", "wants", "holders"}

// channelName is the last part of the channel on which a gate's scripts speak to
// the processes.
const channelName = "say"

// Keys returns the keys of a pool's gate below a prefix, all in one slot of a
// cluster. Without them the gate starts anew, as after a loss of Redis's memory.
func Keys(prefix, pool string) []string {
	keys, _ := names(prefix, pool)
	return keys
}

// names returns the keys and the channel of a pool's gate.
func names(prefix, pool string) (keys []string, channel string) {
	base := prefix + ":limit:{" + pool + "}:"
	for _, name := range keyNames {
		keys = append(keys, base+name)
	}
	return keys, base + channelName
}
