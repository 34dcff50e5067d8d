package functions

import _ "embed"

//go:embed dayfly.schema.json
var manifestSchema string

// ManifestSchema returns the JSON schema of the manifest, for editors. It says
// what [ParseManifest] accepts, as far as a schema can: the limits of env in
// bytes and the check for keys that stand twice are the parser's alone. The
// caller may keep and change the slice.
func ManifestSchema() []byte { return []byte(manifestSchema) }
