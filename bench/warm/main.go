// Command warm measures calls that find an instance waiting.
package main

import (
	"os"

	"github.com/dayfly-run/dayfly/bench/internal/suite"
)

func main() { os.Exit(suite.Run(suite.Parts{Warm: true})) }
