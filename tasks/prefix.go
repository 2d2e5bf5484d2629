package tasks

// DefaultPrefix begins the keys and channels of a Sluice that was given no other.
// With another prefix, several Sluices on one Redis never meet.
const DefaultPrefix = "sluice"
