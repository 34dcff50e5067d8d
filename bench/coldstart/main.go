// Command coldstart measures calls that find no instance, and what idle instances
// cost, with each sandbox that the machine has.
package main

import (
	"os"

	"github.com/dayfly-run/dayfly/bench/internal/suite"
)

func main() { os.Exit(suite.Run(suite.Parts{Cold: true})) }
