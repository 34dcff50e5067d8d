package child_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/dayfly-run/dayfly/bench/internal/child"
)

// TestMain lets the test binary be the child that it starts.
func TestMain(m *testing.M) {
	switch child.Role() {
	case "":
		os.Exit(m.Run())
	case "echo":
		_, _ = io.Copy(os.Stdout, os.Stdin)
		_, _ = io.WriteString(os.Stdout, os.Getenv("LAST"))
	default:
		os.Exit(3)
	}
}

func TestChild(t *testing.T) {
	c, err := child.Start(t.Context(), "echo", "LAST=bye")
	if err != nil {
		t.Fatal(err)
	}
	heard := make([]byte, len("hello"))
	if _, err := io.WriteString(c.In, "hello"); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(c.Out, heard); err != nil || string(heard) != "hello" {
		t.Errorf("%q, %v", heard, err)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
}

// A child ends with its context, and that is no failure.
func TestContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	c, err := child.Start(ctx, "echo", "LAST=bye")
	if err != nil {
		t.Fatal(err)
	}
	cancel(errors.New("enough"))
	if said, err := io.ReadAll(c.Out); err != nil || string(said) != "bye" {
		t.Errorf("%q, %v", said, err)
	}
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
}

func TestChildFails(t *testing.T) {
	c, err := child.Start(t.Context(), "unknown")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(); err == nil || !strings.Contains(err.Error(), "unknown: exit status 3") {
		t.Error(err)
	}
}
