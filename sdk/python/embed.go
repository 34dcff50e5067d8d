// Package python holds the Python SDK's source, for the platform to show it to functions.
package python

import "embed"

// Source has the package dayfly, as its folder.
//
//go:embed dayfly/*.py dayfly/py.typed
var Source embed.FS
