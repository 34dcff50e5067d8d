package invoker

import "go.uber.org/goleak"

// ignoreEngines leaves out what the engines shared by all tests keep: they are
// stopped at the very end.
func ignoreEngines() []goleak.Option {
	return []goleak.Option{}
}
