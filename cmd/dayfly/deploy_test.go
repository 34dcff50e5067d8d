package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
)

// The files of deploy/ and docker-compose.yml name commands and flags of this program.
// These tests read them as systemd and Compose do, so that a flag cannot be renamed
// without them.

const deployed = "../../deploy"

// parse has the program read a command line and its environment, and returns the command.
func parse(t *testing.T, args []string, environment map[string]string) *cobra.Command {
	t.Helper()
	for name, value := range environment {
		t.Setenv(name, value)
	}
	cmd, rest, err := rootCommand().Find(args)
	if err == nil {
		err = cmd.ParseFlags(rest)
	}
	if err == nil {
		err = cmd.ValidateArgs(cmd.Flags().Args())
	}
	if err == nil {
		err = fromEnvironment(cmd)
	}
	if err != nil {
		t.Fatalf("dayfly %s: %v", strings.Join(args, " "), err)
	}
	return cmd
}

// flagOf is the flag that a variable sets.
func flagOf(variable string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(variable, "DAYFLY_")), "_", "-")
}

// unit is what a test needs of a systemd unit.
type unit struct {
	start []string // without the program
	files []string // environment files
}

func readUnit(t *testing.T, path string) (u unit) {
	t.Helper()
	for line := range strings.Lines(read(t, path)) {
		switch key, value, _ := strings.Cut(strings.TrimSpace(line), "="); key {
		case "ExecStart":
			program, args, _ := strings.Cut(value, " ")
			if program != "/usr/local/bin/dayfly" || u.start != nil {
				t.Fatalf("%s starts %s", path, value)
			}
			u.start = strings.Fields(args)
		case "EnvironmentFile":
			u.files = append(u.files, filepath.Base(value))
		}
	}
	return u
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// readEnvironment reads a file as systemd's EnvironmentFile.
func readEnvironment(t *testing.T, path string) map[string]string {
	t.Helper()
	variables := map[string]string{}
	for line := range strings.Lines(read(t, path)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			t.Errorf("%s: %q sets nothing", path, line)
		}
		variables[name] = value
	}
	return variables
}

func TestUnits(t *testing.T) {
	const shared = "dayfly.env" // which no role needs all of
	paths, err := filepath.Glob(deployed + "/systemd/*.service")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no units: %v", err)
	}
	started, used := map[string]bool{}, map[string]bool{}
	known := map[string]bool{}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			u, environment := readUnit(t, path), map[string]string{}
			for _, file := range u.files {
				used[file] = true
				maps.Copy(environment, readEnvironment(t, filepath.Join(deployed, "systemd", file)))
			}
			cmd := parse(t, u.start, environment)
			started[cmd.Name()] = true
			for _, file := range u.files {
				for name := range readEnvironment(t, filepath.Join(deployed, "systemd", file)) {
					is := cmd.Flags().Lookup(flagOf(name)) != nil
					known[name] = known[name] || is
					if !is && file != shared {
						t.Errorf("%s sets %s, and dayfly %s has no such flag", file, name, cmd.Name())
					}
				}
			}
			if want := "dayfly-" + cmd.Name() + ".service"; filepath.Base(path) != want {
				t.Errorf("it starts dayfly %s", cmd.Name())
			}
		})
	}
	for name := range readEnvironment(t, filepath.Join(deployed, "systemd", shared)) {
		if !known[name] {
			t.Errorf("%s sets %s, which no role knows", shared, name)
		}
	}
	for _, cmd := range platformCommands() {
		if cmd.Name() != "up" && !cmd.Hidden && !started[cmd.Name()] {
			t.Errorf("no unit starts dayfly %s", cmd.Name())
		}
	}
	files, err := filepath.Glob(deployed + "/systemd/*.env")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !used[filepath.Base(file)] {
			t.Errorf("no unit reads %s", file)
		}
	}
}

// service is what a test needs of a service in docker-compose.yml.
type service struct {
	Command     []string          `yaml:"command"`
	Entrypoint  []string          `yaml:"entrypoint"`
	Environment map[string]string `yaml:"environment"`
	Restart     string            `yaml:"restart"`
	HealthCheck struct {
		Test []string `yaml:"test"`
	} `yaml:"healthcheck"`
}

// interpolation is a variable in docker-compose.yml, with what it is without a value.
var interpolation = regexp.MustCompile(`\$\{[A-Z0-9_]+(?::-([^}]*)|:\?[^}]*)\}`)

func readCompose(t *testing.T) map[string]service {
	t.Helper()
	var file struct {
		Services map[string]service `yaml:"services"`
	}
	text := interpolation.ReplaceAllString(read(t, "../../docker-compose.yml"), "$1")
	// A key beside a merge takes the merged one's place, which this package calls a duplicate.
	if err := yaml.UnmarshalWithOptions([]byte(text), &file, yaml.AllowDuplicateMapKey()); err != nil {
		t.Fatal(err)
	}
	return file.Services
}

func TestCompose(t *testing.T) {
	services := readCompose(t)
	roles := map[string]int{}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		t.Run(name, func(t *testing.T) {
			s := services[name]
			if s.Restart != "unless-stopped" || len(s.HealthCheck.Test) == 0 {
				t.Error("it is not started again, or nobody asks for its health")
			}
			if len(s.Entrypoint) > 0 && s.Entrypoint[0] == "haproxy" {
				return
			}
			cmd := parse(t, s.Command, s.Environment)
			roles[cmd.Name()]++
			if want := cmd.Name() == "invoker" || cmd.Name() == "builder"; slices.Equal(s.Entrypoint, []string{"in-container", "dayfly"}) != want {
				t.Errorf("entrypoint %q", s.Entrypoint)
			}
			for variable := range s.Environment {
				if strings.HasPrefix(variable, "DAYFLY_") && cmd.Flags().Lookup(flagOf(variable)) == nil {
					t.Errorf("it sets %s, and dayfly %s has no such flag", variable, cmd.Name())
				}
			}
			health := cmd.Flags().Lookup("http")
			if health == nil {
				health = cmd.Flags().Lookup("listen")
			}
			_, port, _ := strings.Cut(health.Value.String(), ":")
			if want := fmt.Sprintf("http://127.0.0.1:%s/readyz", port); !slices.Contains(s.HealthCheck.Test, want) {
				t.Errorf("its health is asked by %q, and not at %s", s.HealthCheck.Test, want)
			}
		})
	}
	want := map[string]int{"nats": 3, "s3": 1, "gateway": 2, "scheduler": 2, "events": 2, "builder": 1, "invoker": 3}
	if !maps.Equal(roles, want) {
		t.Errorf("it has %v, not %v", roles, want)
	}
	for _, server := range regexp.MustCompile(`(?m)^\tserver (\S+) (\S+):8080$`).FindAllStringSubmatch(read(t, deployed+"/image/haproxy.cfg"), -1) {
		if _, ok := services[server[1]]; !ok || server[1] != server[2] {
			t.Errorf("the balancer knows %s, which is no service", server[0])
		}
		delete(services, server[1])
	}
	for name := range services {
		if strings.HasPrefix(name, "gateway") {
			t.Errorf("the balancer does not know %s", name)
		}
	}
}
