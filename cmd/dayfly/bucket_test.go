package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dayfly-run/dayfly/internal/embed/embedtest"
	"github.com/dayfly-run/dayfly/internal/embed/natsserver"
	"github.com/dayfly-run/dayfly/wire"
)

func TestBucketMaker(t *testing.T) {
	t.Parallel()
	away, refused := errors.New("connection refused"), errors.New("403")
	never := []error{away}
	for name, test := range map[string]struct {
		answers []error // the last one again and again
		want    error
		tries   int
		took    time.Duration // until the last try
	}{
		"S3 is there":                {[]error{nil}, nil, 1, 0},
		"S3 refuses":                 {[]error{refused}, refused, 1, 0},
		"S3 comes later":             {[]error{away, away, nil}, nil, 3, 2 * bucketAgain},
		"it refuses first":           {[]error{away, refused, refused, nil}, nil, 4, 3 * bucketAgain},
		"it does not come until end": {never, nil, 31, 30 * bucketAgain},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				begun, tries, last := time.Now(), 0, time.Duration(0)
				m := bucketMaker{
					ensure: func(ctx context.Context) error {
						if until, ok := ctx.Deadline(); !ok || time.Until(until) > bucketBound {
							t.Error("a try has no bound")
						}
						answer := test.answers[min(tries, len(test.answers)-1)]
						tries, last = tries+1, time.Since(begun)
						return answer
					},
					final: func(err error) bool { return errors.Is(err, refused) },
					log:   embedtest.Discard(),
				}
				starting, started := context.WithCancel(t.Context())
				if err := m.start(starting); !errors.Is(err, test.want) {
					t.Errorf("start: %v, want %v", err, test.want)
				}
				started() // what goes on is not of the start
				<-time.After(time.Minute + bucketAgain/2)
				m.stop()
				if tries != test.tries || last != test.took {
					t.Errorf("%d tries, the last after %s; want %d, %s", tries, last, test.tries, test.took)
				}
			})
		})
	}
}

// TestStartWithoutS3: a gateway starts without S3, says that it is away, and makes the
// bucket when it comes. One whose keys are refused ends and says so.
func TestStartWithoutS3(t *testing.T) {
	t.Setenv("DAYFLY_LOG_LEVEL", "error")
	t.Setenv("DAYFLY_S3_ACCESS_KEY", "accessaccess")
	t.Setenv("DAYFLY_S3_SECRET_KEY", "secretsecret")
	t.Chdir(t.TempDir()) // the S3 server changes the folder; this changes it back
	server, err := natsserver.Start(natsserver.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0"}, embedtest.Discard())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	// All of 127.0.0.0/8 is this machine; nobody else uses this address.
	host := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254))
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	gateway := []string{"gateway", "--nats", server.URL(), "--s3-endpoint", "http://" + host + ":9000", "--listen", host + ":8080"}
	go func() { ended <- execute(ctx, gateway...) }()
	problem := func() (text string, answered bool) {
		answer, err := http.Get("http://" + host + ":8080/v1/health")
		if err != nil {
			return "", false
		}
		defer answer.Body.Close()
		var health struct {
			Checks []struct{ Name, Problem string }
		}
		if json.NewDecoder(answer.Body).Decode(&health) != nil {
			return "", false // it is starting
		}
		for _, c := range health.Checks {
			if c.Name == "S3" {
				return c.Problem, true
			}
		}
		return "", false
	}
	embedtest.Eventually(t, "the gateway is up and says that S3 is away", func() bool {
		text, answered := problem()
		return answered && strings.Contains(text, "S3 bucket dayfly")
	})
	part := "http://" + host + ":8080/v1/bundles/" + strings.Repeat("0", 64) + "/parts/1"
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, part, strings.NewReader("a part"))
	if err != nil {
		t.Fatal(err)
	}
	upload, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	var said wire.Problem
	if err := errors.Join(json.NewDecoder(upload.Body).Decode(&said), upload.Body.Close()); err != nil || said.Code != wire.CodeUnavailable || !strings.Contains(said.Detail, "S3") {
		t.Errorf("a deploy is answered %+v, %v", said, err)
	}

	go func() {
		ended <- execute(ctx, "s3", "--listen", host+":9000", "--http", host+":8086", "--data", t.TempDir())
	}()
	embedtest.Eventually(t, "the bucket is made", func() bool {
		text, answered := problem()
		return answered && text == ""
	})
	t.Setenv("DAYFLY_S3_SECRET_KEY", "wrongwrong")
	err = execute(t.Context(), append(gateway, "--listen", host+":8088")...)
	if err == nil || !strings.Contains(err.Error(), "secret key") || !strings.Contains(err.Error(), "--s3-endpoint") {
		t.Errorf("with a wrong key: %v", err)
	}
	end()
	for range 2 {
		if err := embedtest.Receive(t, ended); err != nil {
			t.Error(err)
		}
	}
}
