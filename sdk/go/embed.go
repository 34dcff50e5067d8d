package dayfly

import "embed"

// Source is this package's own source, for the platform to offer it to builds
// without a network. Functions have no use for it: the linker drops it, and the
// offline copy of this package leaves this file out.
//
//go:embed calls.go client.go config.go doc.go http.go stream.go invocation.go log.go platform.go start.go
var Source embed.FS
