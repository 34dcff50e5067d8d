package functions

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/dayfly-run/dayfly/wire"
)

// Where an instance finds a secret.
const (
	// SecretAsBoth is both of the others, and what a name alone means.
	SecretAsBoth = "both"
	// SecretAsEnv is a variable, which stays what it was when the instance started.
	SecretAsEnv = "env"
	// SecretAsFile is a file in [SecretsRoot], which follows every change.
	SecretAsFile = "file"
)

// SecretsRoot is the folder inside an instance that holds the files of secrets.
const SecretsRoot = "/run/secrets"

// Bounds of secrets; sizes in bytes.
const (
	// MaxSecrets bounds the secrets that one version uses, MaxStoredSecrets those that
	// are set for one function.
	MaxSecrets       = 32
	MaxStoredSecrets = 100
	// MaxSecretBytes bounds one value: all of a version's together must fit beside its
	// environment into what the kernel takes for a new process.
	MaxSecretBytes     = 32 << 10
	MaxSecretNameBytes = 128
)

// SecretUse says that a version uses a secret of its function.
type SecretUse struct {
	Name string `json:"name"`
	// As is one of the SecretAs constants.
	As string `json:"as"`
}

// InEnv says that it is a variable.
func (u SecretUse) InEnv() bool { return u.As != SecretAsFile }

// InFile says that it is a file in [SecretsRoot].
func (u SecretUse) InFile() bool { return u.As != SecretAsEnv }

// SecretsAs lists the values of [SecretUse].As, the usual one first. The caller may
// keep and change the slice.
func SecretsAs() []string { return []string{SecretAsBoth, SecretAsEnv, SecretAsFile} }

// SecretInfo is what anybody is told of a secret: never its value.
type SecretInfo struct {
	Name      string    `json:"name"`
	UpdatedAt time.Time `json:"updatedAt"`
}

// redacted is how a secret's value shows itself.
const redacted = "[secret]"

// Secret is a secret's value. Whoever prints, logs or encodes it gets a mask, also where
// it is a field of something else; only [Secret.Reveal] gives the value.
type Secret struct {
	// A pointer, because fmt prints what unexported fields of other structs hold.
	value *string
}

// NewSecret hides a value.
func NewSecret(value string) Secret { return Secret{value: &value} }

// Reveal returns the value, for who hands it to the function.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// Equal reports whether two secrets have the same value.
func (s Secret) Equal(other Secret) bool { return s.Reveal() == other.Reveal() }

// Format writes the mask, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String returns the mask.
func (Secret) String() string { return redacted }

// GoString returns the mask.
func (Secret) GoString() string { return redacted }

// LogValue returns the mask.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns the mask.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON returns the mask.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// CheckSecretName refuses a name that no secret may have; the error has code invalid.
func CheckSecretName(name string) error {
	if reason := badVariable(name); reason != "" {
		return wire.Errorf(wire.CodeInvalid, "%s %s", shown(name), reason)
	}
	if len(name) > MaxSecretNameBytes {
		return wire.Errorf(wire.CodeInvalid, "the name %s has %d bytes; at most %d are allowed", shown(name), len(name), MaxSecretNameBytes)
	}
	return nil
}

// readSecrets reads which secrets the function uses: names, or names with the place
// where it finds them.
func (r *manifestReader) readSecrets(v value) {
	r.given["secrets"] = v
	items, ok := v.list()
	if !ok {
		return
	}
	if len(items) > MaxSecrets {
		v.reject("%d secrets are too many; at most %d are allowed", len(items), MaxSecrets)
		return
	}
	for _, item := range items {
		use, before := SecretUse{As: SecretAsBoth}, len(*v.problems)
		if item.node.Type() == ast.MappingType {
			item.fields(secretFields(&use))
		} else {
			use.Name, _ = item.text()
		}
		if len(*v.problems) == before { // what is wrong with it is not also twice there
			r.addSecret(item, use)
		}
	}
}

// secretFields is the table of the keys of a secret that is more than a name.
func secretFields(use *SecretUse) []field {
	return []field{
		{"name", func(v value) { use.Name, _ = v.text() }},
		{"as", func(v value) {
			as, ok := v.text()
			if ok && !slices.Contains(SecretsAs(), as) {
				v.reject("%s is not a place for a secret; use %s", shown(as), oneOf(SecretsAs()))
			}
			use.As = as
		}},
	}
}

// addSecret takes a secret whose name is good and new.
func (r *manifestReader) addSecret(v value, use SecretUse) {
	s := &r.manifest.Spec
	if use.Name == "" {
		v.reject(`a secret needs a name, as in "{name: API_TOKEN, as: file}"`)
		return
	}
	if err := CheckSecretName(use.Name); err != nil {
		v.reject("%s", wire.AsError(err).Message)
		return
	}
	if slices.ContainsFunc(s.Secrets, func(other SecretUse) bool { return other.Name == use.Name }) {
		v.reject("%s stands twice; keep one", shown(use.Name))
		return
	}
	s.Secrets = append(s.Secrets, use)
}

// checkSecrets reports secrets that are variables of the environment as well.
func (r *manifestReader) checkSecrets() {
	for _, use := range r.manifest.Spec.Secrets {
		if _, clash := r.manifest.Spec.Env[use.Name]; clash {
			r.given["secrets"].reject("%s stands in env as well; remove it there", shown(use.Name))
		}
	}
}
