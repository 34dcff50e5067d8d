package registry_test

import (
	"os"
	"testing"

	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/s3server"
)

// s3 is the one S3 server of this process; set before any test runs.
var s3 *s3server.Server

func TestMain(m *testing.M) {
	if embedtest.RunServer() {
		return
	}
	//nolint:forbidigo // it is the tests' main
	os.Exit(embedtest.RunWithS3(m, func(s *s3server.Server) { s3 = s }))
}
