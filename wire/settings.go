package wire

import (
	"fmt"
	"strings"
)

// Key-value buckets of what functions are configured with.
const (
	BucketConfig  = "dayfly_config"
	BucketSecrets = "dayfly_secrets"
)

// Bounds of a function's configuration.
const (
	// MaxConfigKeys bounds its keys, MaxConfigBytes its keys and values together.
	MaxConfigKeys  = 100
	MaxConfigBytes = 64 << 10
)

// ConfigKey is the key in [BucketConfig] of all that a function is configured with.
func ConfigKey(f FunctionID) string { return f.Namespace + "." + f.Name }

// ParseConfigKey reverses [ConfigKey].
func ParseConfigKey(key string) (FunctionID, error) {
	namespace, name, both := strings.Cut(key, ".")
	if !both || !ValidName(namespace) || !ValidName(name) {
		return FunctionID{}, fmt.Errorf("key %q names no function", key)
	}
	return FunctionID{Namespace: namespace, Name: name}, nil
}

// SecretKey is a secret's key in [BucketSecrets].
func SecretKey(f FunctionID, name string) string { return ConfigKey(f) + "." + name }

// FunctionSecrets matches the keys of all secrets of a function.
func FunctionSecrets(f FunctionID) string { return ConfigKey(f) + ".*" }

// ParseSecretKey reverses [SecretKey].
func ParseSecretKey(key string) (f FunctionID, name string, err error) {
	function, name, both := cutLast(key)
	if f, err = ParseConfigKey(function); err != nil || !both || name == "" {
		return FunctionID{}, "", fmt.Errorf("key %q names no secret", key)
	}
	return f, name, nil
}

// cutLast cuts a key around its last dot.
func cutLast(key string) (before, after string, found bool) {
	i := strings.LastIndexByte(key, '.')
	if i < 0 {
		return "", "", false
	}
	return key[:i], key[i+1:], true
}
