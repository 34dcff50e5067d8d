// Package node holds the Node.js SDK's source, for the platform to show it to functions.
package node

import "embed"

// Source has the files of the package dayfly.
//
//go:embed package.json *.cjs *.mjs *.d.ts
var Source embed.FS
