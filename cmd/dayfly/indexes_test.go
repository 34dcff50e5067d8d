package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestIndexSettings: what the machine is told of its mirrors, builds are told too, and the
// environment wins. Tokens stay here.
func TestIndexSettings(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	for _, name := range append(proxyNames(), "PIP_INDEX_URL", "NPM_CONFIG_REGISTRY", "npm_config_registry") {
		t.Setenv(name, "")
	}
	for name, text := range map[string]string{
		".config/pip/pip.conf": "[install]\nindex-url = https://no.example\n[global]\n# index-url = https://no.example\nindex-url = https://a.example/simple\n",
		".npmrc":               "//b.example/:_authToken=secret\nregistry = https://b.example/\n",
	} {
		path := filepath.Join(home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if pip := pipSettings(); !slices.Contains(pip, "PIP_INDEX_URL=https://a.example/simple") {
		t.Errorf("pip: %q", pip)
	}
	npm := npmSettings()
	if !slices.Contains(npm, "npm_config_registry=https://b.example/") || strings.Contains(strings.Join(npm, " "), "secret") {
		t.Errorf("npm: %q", npm)
	}
	t.Setenv("PIP_INDEX_URL", "https://c.example/simple")
	t.Setenv("NPM_CONFIG_REGISTRY", "https://d.example/")
	t.Setenv("HTTPS_PROXY", "http://proxy.example")
	last := slices.Index(pipSettings(), "PIP_INDEX_URL=https://c.example/simple")
	if pip := pipSettings(); last < slices.Index(pip, "PIP_INDEX_URL=https://a.example/simple") || !slices.Contains(pip, "HTTPS_PROXY=http://proxy.example") {
		t.Errorf("pip: %q", pip)
	}
	if npm := npmSettings(); npm[len(npm)-1] != "npm_config_registry=https://d.example/" {
		t.Errorf("npm: %q", npm)
	}
}

// TestJobLog: all that was printed is there once it is closed, whoever opened it and when.
func TestJobLog(t *testing.T) {
	path, out := filepath.Join(t.TempDir(), "log"), &bytes.Buffer{}
	log, err := openJobLog(path, out)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("line\n", 100_000) // more than a pipe holds
	for range 2 {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Error(err)
		}
	}
	if err := log.close(); err != nil || out.String() != text+text {
		t.Errorf("%d bytes of %d, %v", out.Len(), 2*len(text), err)
	}
	if _, err := openJobLog(path, out); err == nil {
		t.Error("a log was opened twice")
	}
}
