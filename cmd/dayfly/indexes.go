package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// proxyNames are the settings by which any program reaches the world.
func proxyNames() []string {
	return []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}
}

// pipSettings are this machine's ways to Python packages: its environment, and before
// that its configuration.
func pipSettings() []string {
	var env []string
	home, _ := os.UserHomeDir() // without one there is no such file
	for _, path := range []string{"/etc/pip.conf", filepath.Join(home, ".pip", "pip.conf"), filepath.Join(home, ".config", "pip", "pip.conf")} {
		for _, s := range [][2]string{
			{"index-url", "PIP_INDEX_URL"}, {"extra-index-url", "PIP_EXTRA_INDEX_URL"}, {"trusted-host", "PIP_TRUSTED_HOST"}, {"timeout", "PIP_DEFAULT_TIMEOUT"},
		} {
			if value := readSetting(path, "global", s[0]); value != "" {
				env = append(env, s[1]+"="+value)
			}
		}
	}
	return append(env, fromMachine(append(proxyNames(), "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT"))...)
}

// npmSettings are this machine's ways to npm packages.
func npmSettings() []string {
	var env []string
	home, _ := os.UserHomeDir() // as above
	for _, path := range []string{"/etc/npmrc", filepath.Join(home, ".npmrc")} {
		if value := readSetting(path, "", "registry"); value != "" {
			env = append(env, "npm_config_registry="+value)
		}
	}
	for _, e := range fromMachine(append(proxyNames(), "NPM_CONFIG_REGISTRY", "npm_config_registry")) {
		env = append(env, strings.Replace(e, "NPM_CONFIG_REGISTRY", "npm_config_registry", 1))
	}
	return env
}

// npmRegistry is where this machine's own npm gets packages from, if it has one. It takes
// npm half a second to say so.
func npmRegistry(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "npm", "config", "get", "registry").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func fromMachine(names []string) (env []string) {
	for _, name := range names {
		if value := os.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// readSetting reads one setting out of an ini file; a file that cannot be read has none.
func readSetting(path, section, key string) (value string) {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	in := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			in = strings.Trim(line, "[]")
			continue
		}
		name, v, ok := strings.Cut(line, "=")
		if ok && in == section && strings.TrimSpace(name) == key && !strings.HasPrefix(line, "#") {
			value = strings.TrimSpace(v)
		}
	}
	return value
}
