package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/dayfly-run/dayfly/wire"
)

const (
	// smallBundle is sent with the deploy itself, in bytes.
	smallBundle = 1 << 20
	// partsAtOnce bounds the parts on their way, and with it the memory that they take.
	partsAtOnce = 3
	// partTries bounds how often a part is sent, partPause the first wait between two,
	// which doubles up to partPauseMost.
	partTries     = 6
	partPause     = 250 * time.Millisecond
	partPauseMost = 8 * time.Second
	// partTimeout bounds one try.
	partTimeout = 5 * time.Minute
	// maxPartBytes bounds the size of parts that a server may ask for.
	maxPartBytes = 64 << 20
)

// bundleState is what the server has of a bundle.
type bundleState struct {
	PartBytes int64 `json:"partBytes"`
	Parts     []int `json:"parts"`
	Complete  bool  `json:"complete"`
}

// uploadBundle makes sure that the server has a bundle, and sends what it lacks.
func (c *Client) uploadBundle(ctx context.Context, bundle io.ReadSeeker, size int64, progress func(done, total int64)) (wire.Digest, error) {
	sum := sha256.New()
	if n, err := io.Copy(sum, bundle); err != nil || n != size {
		return "", fmt.Errorf("read the bundle: %d of %d bytes: %w", n, size, errors.Join(err, io.ErrUnexpectedEOF))
	}
	digest := wire.Digest(hex.EncodeToString(sum.Sum(nil)))
	err := c.sendBundle(ctx, digest, bundle, size, progress)
	if wire.HasCode(err, wire.CodeConflict) {
		// Parts of an old upload were collected since they were asked for.
		err = c.sendBundle(ctx, digest, bundle, size, progress)
	}
	return digest, err
}

// sendBundle sends what the server lacks of a bundle, and has it put together.
func (c *Client) sendBundle(ctx context.Context, digest wire.Digest, bundle io.ReadSeeker, size int64, progress func(done, total int64)) error {
	state, err := c.bundleState(ctx, digest)
	if err != nil {
		return err
	}
	count := newCounter(size, progress)
	if state.Complete {
		count.add(size)
		return nil
	}
	u := &parts{client: c, digest: digest, bundle: bundle, size: size, state: state, count: count}
	if err := u.send(ctx); err != nil {
		return err
	}
	return u.complete(ctx)
}

// bundleState asks what the server has of a bundle.
func (c *Client) bundleState(ctx context.Context, digest wire.Digest) (state bundleState, err error) {
	r := request{method: http.MethodGet, url: c.at(nil, "v1", "bundles", string(digest))}
	err = c.call(ctx, c.timeout, r, &state)
	if wire.HasCode(err, wire.CodeNotFound) {
		return bundleState{PartBytes: wire.BundlePart}, nil
	}
	if err == nil && !state.Complete && (state.PartBytes < 1 || state.PartBytes > maxPartBytes) {
		err = &ResponseError{URL: r.url.Redacted(), Status: http.StatusOK, ContentType: jsonType, Excerpt: fmt.Sprintf("parts of %d bytes", state.PartBytes)}
	}
	return state, err
}

// parts uploads a bundle in parts.
type parts struct {
	client *Client
	digest wire.Digest
	size   int64
	state  bundleState
	count  *counter

	mu     sync.Mutex
	bundle io.ReadSeeker // guarded by mu
}

// send sends the parts that the server lacks, a few at once. The first that cannot be
// sent ends the others.
func (u *parts) send(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	todo := make(chan int)
	var workers sync.WaitGroup
	for range partsAtOnce {
		workers.Go(func() {
			for n := range todo {
				if err := u.sendPart(ctx, n); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	for n := 1; int64(n-1)*u.state.PartBytes < u.size && ctx.Err() == nil; n++ {
		if slices.Contains(u.state.Parts, n) {
			u.count.add(u.bytesOf(n))
			continue
		}
		select {
		case todo <- n:
		case <-ctx.Done():
		}
	}
	close(todo)
	workers.Wait()
	return context.Cause(ctx)
}

func (u *parts) bytesOf(n int) int64 {
	return min(u.state.PartBytes, u.size-int64(n-1)*u.state.PartBytes)
}

// sendPart sends one part, again and again while that may help.
func (u *parts) sendPart(ctx context.Context, n int) error {
	data, err := u.read(n)
	if err != nil {
		return err
	}
	pause := partPause
	for try := 1; ; try++ {
		err := u.putPart(ctx, n, data)
		if err == nil || try == partTries || !worthAnother(ctx, err) {
			return err
		}
		// Not all at the same moment.
		wait := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // it need not be unpredictable
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return context.Cause(ctx)
		}
		pause = min(2*pause, partPauseMost)
	}
}

// worthAnother reports whether a part that failed may go through the next time.
func worthAnother(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	if e, ok := errors.AsType[*wire.Error](err); ok {
		return e.Retryable || e.Code == wire.CodeUnavailable || e.Code == wire.CodeThrottled || e.Code == wire.CodeInternal
	}
	if e, ok := errors.AsType[*ResponseError](err); ok {
		return e.Temporary()
	}
	return true
}

// read returns a part's bytes.
func (u *parts) read(n int) ([]byte, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, err := u.bundle.Seek(int64(n-1)*u.state.PartBytes, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read the bundle: %w", err)
	}
	data := make([]byte, u.bytesOf(n))
	if _, err := io.ReadFull(u.bundle, data); err != nil {
		return nil, fmt.Errorf("read the bundle: %w", err)
	}
	return data, nil
}

// putPart sends a part once; what it has counted is taken off if that fails.
func (u *parts) putPart(ctx context.Context, n int, data []byte) error {
	body := &upload{reader: bytes.NewReader(data)}
	counted := &countedReader{r: body, count: u.count}
	r := request{
		method: http.MethodPut, url: u.client.at(nil, "v1", "bundles", string(u.digest), "parts", strconv.Itoa(n)),
		body: counted, bytes: int64(len(data)), contentType: bundleType,
	}
	err := u.client.call(ctx, partTimeout, r, &struct{}{})
	body.stop() // nothing is counted from here on
	if err != nil {
		u.count.add(-counted.taken())
	}
	return err
}

// complete has the server put the parts together.
func (u *parts) complete(ctx context.Context) error {
	body, err := json.Marshal(map[string]int64{"bytes": u.size})
	if err != nil {
		return err
	}
	return u.client.call(ctx, partTimeout, request{
		method: http.MethodPost, url: u.client.at(nil, "v1", "bundles", string(u.digest)),
		body: bytes.NewReader(body), bytes: int64(len(body)), contentType: jsonType,
	}, &bundleState{})
}

// counter adds up what of a bundle is at the server.
type counter struct {
	total int64
	tell  func(done, total int64)

	mu   sync.Mutex
	done int64 // guarded by mu, as are calls of tell
}

func newCounter(total int64, tell func(done, total int64)) *counter {
	return &counter{total: total, tell: tell}
}

func (c *counter) add(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += n
	c.tell(c.done, c.total)
}

// countedReader counts what is read from it.
type countedReader struct {
	r     *upload
	count *counter

	// mu is held while r is read, so that nothing is counted after taken once r is
	// stopped.
	mu sync.Mutex
	n  int64
}

func (r *countedReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := r.r.Read(p)
	if n > 0 {
		r.n += int64(n)
		r.count.add(int64(n))
	}
	return n, err
}

// taken is how many bytes were read.
func (r *countedReader) taken() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n
}

// measure returns the size of what is to be uploaded, and goes to its start.
func measure(what string, r io.Seeker, most int64) (int64, error) {
	size, err := r.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("measure the %s: %w", what, err)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return 0, fmt.Errorf("rewind the %s: %w", what, err)
	}
	switch {
	case size == 0:
		return 0, wire.Errorf(wire.CodeInvalid, "the %s is empty", what)
	case size > most:
		return 0, wire.Errorf(wire.CodeTooLarge, "the %s has %d bytes; at most %d are allowed", what, size, most)
	}
	return size, nil
}

var errStopped = errors.New("the call is over")

// upload is a request's body that is not read once the call is over: an HTTP
// transport may do so when the answer comes before the body is sent.
type upload struct {
	mu      sync.Mutex
	reader  io.Reader
	stopped bool
}

func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.stopped {
		return 0, errStopped
	}
	return u.reader.Read(p)
}

func (u *upload) stop() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.stopped = true
}
