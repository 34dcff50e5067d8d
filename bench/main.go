// Command bench measures Dayfly against baselines in the same run and prints the
// tables of TARGETS: warm calls, cold starts, then accepted events. See README.md beside it.
package main

import (
	"os"

	"github.com/dayfly-run/dayfly/bench/internal/suite"
)

func main() { os.Exit(suite.Run(suite.Parts{Warm: true, Cold: true, Events: true})) }
