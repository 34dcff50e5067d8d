// Command events measures events that are accepted and run later.
package main

import (
	"os"

	"github.com/dayfly-run/dayfly/bench/internal/suite"
)

func main() { os.Exit(suite.Run(suite.Parts{Events: true})) }
