// Command cold measures the first calls of functions that were never called.
package main

import (
	"os"

	"github.com/dayfly-run/dayfly/bench/internal/suite"
)

func main() { os.Exit(suite.Run(suite.Parts{Cold: true})) }
