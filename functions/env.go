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
	reason := badVariable(e.key)
	if reason != "" {
		e.add(e.line, "env: %s %s", shown(e.key), reason)
	}
	return reason == ""
}

// badVariable says why no variable of a user's may have a name, or "".
func badVariable(name string) string {
	switch {
	case !envKeyPattern.MatchString(name):
		return "is not a variable's name; use letters, digits and _, not a digit first"
	case slices.Contains(reservedEnv(), name), strings.HasPrefix(name, reservedEnvPrefix):
		return "is set by Dayfly; use another name"
	}
	return ""
}
