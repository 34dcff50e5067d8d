package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/dayfly-run/dayfly/internal/intake"
	"github.com/dayfly-run/dayfly/internal/telemetry"
	"github.com/dayfly-run/dayfly/invoker"
	"github.com/dayfly-run/dayfly/wire"
)

// config is what the command line and the environment say to the platform's
// commands. Every flag can be given as DAYFLY_ and its name in capitals, with _
// for -; the command line wins.
type config struct {
	Listen    string
	Data      string
	LogLevel  string
	LogFormat string
	// Drain is how long a stop lets calls end.
	Drain time.Duration
	// LameDuck is how long a gateway serves on after it was told to stop.
	LameDuck time.Duration

	NATS            string
	NATSCredentials string
	// Replicas is how many NATS servers keep each bucket and stream.
	Replicas   int
	NATSListen string

	keepsObjects bool // whether the command has the flags of S3
	S3Endpoint   string
	S3Bucket     string
	S3Region     string
	S3AccessKey  string
	S3SecretKey  string
	S3Listen     string

	Node      string
	Memory    int64 // MiB; 0 to measure
	CPU       int64 // thousandths of a core; 0 to measure
	Instances int   // 0 for the default
	Idle      time.Duration
	Stems     int

	Retention         time.Duration
	IdempotencyWindow time.Duration
	QueueMiB          int64

	Labels []string // each key=value
	Zone   string

	Sandbox    string
	OCIRuntime string

	GoRoot string
	Builds int

	SecretsKey string

	GarbageGrace time.Duration
}

func (c *config) commonFlags(f *pflag.FlagSet, listen string) {
	f.StringVar(&c.Listen, "listen", listen, "`address` of the HTTP listener")
	c.logFlags(f)
	f.DurationVar(&c.Drain, "drain", 30*time.Second, "how long a stop lets calls end before it kills them")
	f.StringVar(&c.NATS, "nats", "", "`URL` of NATS servers, separated by commas")
	f.StringVar(&c.NATSCredentials, "nats-credentials", "", "NATS credentials `file`")
	f.IntVar(&c.Replicas, "replicas", 1, "how many NATS servers keep what Dayfly keeps there: 1, 3 or 5; it takes a cluster of that many, and counts when a stream or bucket is made")
}

// s3Flags are of the roles that keep something in S3, which is all but the scheduler.
func (c *config) s3Flags(f *pflag.FlagSet) {
	c.keepsObjects = true
	f.StringVar(&c.S3Endpoint, "s3-endpoint", "", "`URL` of an S3 server, http://host:port")
	f.StringVar(&c.S3Bucket, "s3-bucket", "dayfly", "S3 `bucket`")
	f.StringVar(&c.S3Region, "s3-region", "us-east-1", "S3 `region`")
	f.StringVar(&c.S3AccessKey, "s3-access-key", "", "S3 access `key`")
	f.StringVar(&c.S3SecretKey, "s3-secret-key", "", "S3 secret `key`; better given as DAYFLY_S3_SECRET_KEY")
}

func (c *config) logFlags(f *pflag.FlagSet) {
	f.StringVar(&c.LogLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&c.LogFormat, "log-format", "text", "text or json")
}

func (c *config) embeddedFlags(f *pflag.FlagSet) {
	f.StringVar(&c.NATSListen, "nats-listen", "", "`address` at which the embedded NATS takes other processes; empty for none")
	f.StringVar(&c.S3Listen, "s3-listen", "", "`address` at which the embedded S3 takes other processes; empty for none")
}

func (c *config) dataFlag(f *pflag.FlagSet, what string) {
	f.StringVar(&c.Data, "data", "dayfly-data", "`folder` for "+what)
}

func (c *config) invokerFlags(f *pflag.FlagSet) {
	f.StringVar(&c.Node, "node", "", "`name` of this node; by default made at the first start and kept in --data")
	f.StringSliceVar(&c.Labels, "label", nil, "`key=value` that a function's nodeSelector may ask for; may be given several times")
	f.StringVar(&c.Zone, "zone", "", "what this node fails together with, such as a rack or room; instances of a function are spread over zones")
	f.Int64Var(&c.Memory, "memory", 0, "`MiB` of memory that functions may take; by default 4/5 of the machine's")
	f.Int64Var(&c.CPU, "cpu", 0, "thousandths of a core that functions may reserve; by default 4 times the cores")
	f.IntVar(&c.Instances, "instances", 0, "most instances at once; 512 by default")
	f.IntVar(&c.Stems, "stems", 1, "containers of each runtime that are held ready for functions never called before; demand adds more; 0 for none at any time")
	f.DurationVar(&c.Idle, "idle", invoker.DefaultIdleLimit, "how long an instance may be idle while nobody needs its memory; when somebody does, those that are worth least go first")
}

// gatewayFlags are of the roles that take HTTP.
func (c *config) gatewayFlags(f *pflag.FlagSet) {
	f.DurationVar(&c.LameDuck, "lame-duck", 0, "how long a stop goes on serving while /readyz says no, so that a load balancer sends nothing here any more: longer than it takes to notice")
}

// eventFlags are of all roles that accept or run events; they must say the same to each.
func (c *config) eventFlags(f *pflag.FlagSet) {
	f.DurationVar(&c.Retention, "retention", intake.DefaultRetention, "how long records of invocations and stored outputs stay")
	f.DurationVar(&c.IdempotencyWindow, "idempotency-window", intake.DefaultWindow, "how long an Idempotency-Key is remembered")
	f.Int64Var(&c.QueueMiB, "queue-size", intake.DefaultQueueBytes>>20, "`MiB` of accepted events that may wait; beyond it new ones are refused")
}

// garbageFlags are of the roles that remove from S3 what nothing refers to.
func (c *config) garbageFlags(f *pflag.FlagSet) {
	f.DurationVar(&c.GarbageGrace, "garbage-grace", time.Hour, "how long an object in S3 stays that nothing refers to; builds must not take longer")
}

// minRetention keeps a record for as long as an attempt and the pause after it may take.
const minRetention = time.Hour

// checkEvents refuses settings of events that cannot work; roles without them have none.
func (c *config) checkEvents() error {
	switch {
	case c.QueueMiB == 0 && c.Retention == 0 && c.IdempotencyWindow == 0:
		return nil
	case c.Retention < minRetention:
		return wire.Errorf(wire.CodeInvalid, "--retention %s is too short; use at least %s", c.Retention, minRetention)
	case c.IdempotencyWindow < time.Second:
		return wire.Errorf(wire.CodeInvalid, "--idempotency-window %s is too short; use at least %s", c.IdempotencyWindow, time.Second)
	case c.QueueMiB < 1:
		return wire.Errorf(wire.CodeInvalid, "--queue-size %d is too small; use at least 1", c.QueueMiB)
	}
	return nil
}

func (c *config) sandboxFlags(f *pflag.FlagSet) {
	f.StringVar(&c.Sandbox, "sandbox", "", "what makes containers: docker (a Docker Engine) or oci (crun or runc, no daemon); by default docker where an engine answers, else oci")
	f.StringVar(&c.OCIRuntime, "oci-runtime", "", "`program` of the OCI runtime for --sandbox oci; by default the first of crun and runc that works")
}

// secretsFlags are of the roles that seal or open secrets; they must say the same to each.
func (c *config) secretsFlags(f *pflag.FlagSet) {
	f.StringVar(&c.SecretsKey, "secrets-key", "", "key `file` that seals the secrets of functions, the same for all gateways and invokers: 32 random bytes in base64 on each line, of which the first seals and all open; `up` makes one in --data")
}

// anchor makes the paths of files absolute: the embedded S3 server changes the working
// directory.
func (c *config) anchor() error {
	for _, path := range []*string{&c.SecretsKey, &c.NATSCredentials} {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	return nil
}

func (c *config) builderFlags(f *pflag.FlagSet) {
	f.StringVar(&c.GoRoot, "go-root", "", "`folder` of the Go toolchain that compiles functions; by default the one that `go env GOROOT` names")
	f.IntVar(&c.Builds, "builds", 2, "builds at once")
}

// fromEnvironment fills the flags that the command line does not set, and refuses
// a value that is none.
func fromEnvironment(cmd *cobra.Command) error {
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		name := "DAYFLY_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := os.LookupEnv(name)
		if !ok || f.Changed {
			return
		}
		if err := f.Value.Set(value); err != nil {
			errs = append(errs, fmt.Errorf("%s=%s: %w", name, value, err))
		}
	})
	if err := errors.Join(errs...); err != nil {
		return wire.Errorf(wire.CodeInvalid, "%s", err)
	}
	return nil
}

func (c *config) logger() (*slog.Logger, error) {
	log, err := telemetry.NewLogger(os.Stderr, c.LogLevel, c.LogFormat)
	if err != nil {
		return nil, wire.Errorf(wire.CodeInvalid, "%s", err)
	}
	return log, nil
}

// checkReplicas refuses numbers of replicas that help nobody, or that there cannot be.
func (c *config) checkReplicas() error {
	switch {
	case c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5:
		return wire.Errorf(wire.CodeInvalid, "--replicas %d: use 1, 3 or 5", c.Replicas)
	case c.Replicas > 1 && c.NATS == "":
		return wire.Errorf(wire.CodeInvalid, "--replicas %d needs a cluster of NATS servers; name it with --nats", c.Replicas)
	}
	return nil
}

// requireOutside refuses a role of its own without outside NATS, and S3 if it needs that.
func (c *config) requireOutside() error {
	switch {
	case c.NATS == "":
		return wire.Errorf(wire.CodeInvalid, "--nats is missing: a role of its own needs NATS servers, for example --nats nats://127.0.0.1:4222")
	case c.keepsObjects && c.S3Endpoint == "":
		return wire.Errorf(wire.CodeInvalid, "--s3-endpoint is missing: a role of its own needs an S3 server, for example --s3-endpoint http://127.0.0.1:9000")
	}
	return nil
}

// capacity is what the node offers: measured, but for what was set.
func (c *config) capacity() (wire.Resources, error) {
	r, err := invoker.MeasureCapacity()
	if err != nil && c.Memory == 0 {
		return r, err
	}
	if c.Memory < 0 || c.CPU < 0 || c.Instances < 0 || c.Stems < 0 {
		return r, wire.Errorf(wire.CodeInvalid, "--memory, --cpu, --instances and --stems must not be negative")
	}
	if c.Memory > 0 {
		r.MemoryBytes = c.Memory << 20
	}
	if c.CPU > 0 {
		r.CPUMillis = c.CPU
	}
	if c.Instances > 0 {
		r.Instances = c.Instances
	}
	return r, nil
}

// dataFolder is a folder of ours on disk, locked against a second process.
type dataFolder struct {
	path string
	lock *os.File
}

// openData makes and locks a folder. The embedded S3 server changes the working
// directory, so that every path must be absolute.
func openData(path string) (*dataFolder, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data folder %s: %w", path, err)
	}
	if err := os.MkdirAll(abs, 0o711); err != nil {
		return nil, wire.Errorf(wire.CodeInvalid, "the data folder cannot be made: %s; name another one with --data", err)
	}
	lock, err := os.OpenFile(filepath.Join(abs, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, wire.Errorf(wire.CodeInvalid, "the data folder cannot be written: %s; name another one with --data", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, wire.Errorf(wire.CodeInvalid, "another dayfly uses the data folder %s; stop it, or name another folder with --data", abs)
	}
	return &dataFolder{path: abs, lock: lock}, nil
}

func (d *dataFolder) close() { _ = d.lock.Close() } // closing unlocks

// maxName is how many bytes a name has at most, see [wire.ValidName].
const maxName = 63

// hostName is the machine's name in the form of our names, of at most so many bytes.
func hostName(most int) (string, error) {
	host, err := os.Hostname()
	if err != nil {
		return "", err
	}
	return nameAfter(host, most), nil
}

// nameAfter is a text in the form of our names; it is empty when the text has none of
// their letters.
func nameAfter(text string, most int) string {
	text = strings.TrimLeft(notInName.ReplaceAllString(strings.ToLower(text), "-"), "-")
	return strings.TrimRight(text[:min(len(text), most)], "-")
}

var notInName = regexp.MustCompile(`[^a-z0-9-]+`)

// newNodeID makes a node name after the machine's.
func newNodeID() (string, error) {
	host, err := hostName(40)
	if err != nil {
		return "", errors.Join(err, errors.New("name this node with --node"))
	}
	return strings.TrimLeft(host+"-"+strings.ToLower(rand.Text()[:6]), "-"), nil
}

// nodeID is the node's name: the one that was given, the one kept in the folder, or
// a new one after the machine's.
func nodeID(given, dir string) (wire.NodeID, error) {
	path := filepath.Join(dir, "node-id")
	if given == "" {
		kept, err := os.ReadFile(path)
		switch {
		case err == nil:
			given = strings.TrimSpace(string(kept))
		case errors.Is(err, os.ErrNotExist):
			if given, err = newNodeID(); err != nil {
				return "", err
			}
		default:
			return "", err
		}
	}
	if !wire.ValidName(given) {
		return "", wire.Errorf(wire.CodeInvalid, "node name %q is not valid: use lower-case letters, digits and inner hyphens, at most 63; set it with --node", given)
	}
	if err := os.WriteFile(path, []byte(given+"\n"), 0o600); err != nil {
		return "", err
	}
	return wire.NodeID(given), nil
}
