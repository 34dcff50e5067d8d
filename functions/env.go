package functions

import (
	"regexp"
	"slices"
	"strings"
)

var envKeyPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// reservedEnvPrefix begins every variable that Dayfly sets for a function.
const reservedEnvPrefix = "DAYFLY_"

// reservedEnv lists the variables that the Lambda Runtime API sets.
func reservedEnv() []string {
	return []string{"AWS_LAMBDA_RUNTIME_API", "_HANDLER", "LAMBDA_TASK_ROOT"}
}

// readEnv reads the environment; keys and values are text.
func (r *manifestReader) readEnv(v value) {
	entries, ok := v.entries()
	if !ok {
		return
	}
	if len(entries) > MaxEnvEntries {
		v.reject("%d variables are too many; at most %d are allowed", len(entries), MaxEnvEntries)
		return
	}
	env, bytes := make(map[string]string, len(entries)), 0
	for _, e := range entries {
		if !checkEnvKey(e) {
			continue
		}
		text, ok := e.text()
		if !ok {
			continue
		}
		if strings.ContainsRune(text, 0) {
			e.reject("a variable cannot hold a NUL byte; remove it")
			continue
		}
		env[e.key] = text
		bytes += len(e.key) + len(text)
	}
	if bytes > MaxEnvBytes {
		v.reject("the variables take %d bytes; at most %d are allowed, names and values together", bytes, MaxEnvBytes)
		return
	}
	if len(env) > 0 {
		r.manifest.Spec.Env = env
	}
}

// checkEnvKey reports a name that no variable may have.
func checkEnvKey(e entry) bool {
	switch {
	case !envKeyPattern.MatchString(e.key):
		e.add(e.line, "env: %s is not a variable's name; use letters, digits and _, not a digit first", shown(e.key))
	case slices.Contains(reservedEnv(), e.key), strings.HasPrefix(e.key, reservedEnvPrefix):
		e.add(e.line, "env: %s is set by Dayfly; use another name", shown(e.key))
	default:
		return true
	}
	return false
}
