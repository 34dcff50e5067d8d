package trace

import (
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bounds of what is read, and what is taken for what a trace does not say.
const (
	maxRows    = 2_000_000 // functions in a file
	maxDays    = 31
	maxRun     = 24 * time.Hour
	maxMemory  = 64 << 10 // MiB
	unknownRun = 1000.0   // ms
	// unknownMemory is in MiB.
	unknownMemory = 170.0
)

// The names of the trace's files, and the short ones that samples of it have.
var (
	invocationFiles = regexp.MustCompile(`^invocations(_per_function_md\.anon\.d\d+)?\.csv$`)
	durationFiles   = regexp.MustCompile(`^(function_durations_percentiles\.anon\.d\d+|durations)\.csv$`)
	memoryFiles     = regexp.MustCompile(`^(app_memory_percentiles\.anon\.d\d+|memory)\.csv$`)
)

// Part says what of a trace to read.
type Part struct {
	// Functions is how many functions to sample; 0 means all.
	Functions int
	// Days is how many days to read; 0 means all.
	Days int
	// Seed picks the sample, the run times and the cold starts.
	Seed uint64
}

// ReadAzure reads a trace in the format of the Azure Functions trace of 2019 from
// the top folder of fsys. Its errors name the file and the line.
func ReadAzure(fsys fs.FS, part Part) (*Trace, error) {
	r := &azureReader{
		part: part, functions: map[azureKey]*azureFunction{},
		appSizes: map[azureApp]int{}, appMemory: map[azureApp]float64{},
	}
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("read the trace's folder: %w", err)
	}
	for _, kind := range []struct {
		names *regexp.Regexp
		read  func(start int32, t *csvTable) error
	}{
		{invocationFiles, r.invocations}, {durationFiles, r.durations}, {memoryFiles, r.memory},
	} {
		dayNumber, start := 0, int32(0) // minute at which the file's day begins
		for _, entry := range entries { // in order of names, so of days
			if !kind.names.MatchString(entry.Name()) || part.Days > 0 && dayNumber >= part.Days {
				continue
			}
			if dayNumber >= maxDays {
				return nil, fmt.Errorf("more than %d files like %s; use -days", maxDays, entry.Name())
			}
			if err := readCSV(fsys, entry.Name(), func(t *csvTable) error { return kind.read(start, t) }); err != nil {
				return nil, err
			}
			dayNumber++
			start += minutesPerDay
		}
		if kind.names == invocationFiles {
			r.days = dayNumber
		}
	}
	if r.days == 0 {
		return nil, errors.New("the folder has no invocations_per_function_md.anon.dNN.csv")
	}
	return r.trace()
}

type azureApp struct{ owner, app string }

type azureKey struct {
	azureApp
	function string
}

type azureFunction struct {
	key     azureKey
	hash    uint64
	trigger string
	minutes []azureMinute
	run     *runTimes
	memory  float64 // MiB, where the trace gives it by function
}

// azureMinute is a minute, counted from the trace's beginning, that has calls.
type azureMinute struct{ minute, calls int32 }

type azureReader struct {
	part      Part
	days      int
	calls     int
	functions map[azureKey]*azureFunction
	worst     *azureFunction // of a full sample, the one to go next
	appSizes  map[azureApp]int
	appMemory map[azureApp]float64
}

// invocations reads a day's calls by minute.
func (r *azureReader) invocations(start int32, t *csvTable) error {
	columns, err := t.columns("HashOwner", "HashApp", "HashFunction", "Trigger", "1")
	if err != nil {
		return err
	}
	first, sizes := columns[4], map[azureApp]int{}
	if len(t.header) < first+minutesPerDay {
		return fmt.Errorf("%s: %d columns from the minute 1 on, want %d", t.name, len(t.header)-first, minutesPerDay)
	}
	err = t.rows(func(row []string) error {
		// Cloned, as a field holds on to the whole of its row.
		app := azureApp{strings.Clone(row[columns[0]]), strings.Clone(row[columns[1]])}
		key := azureKey{app, strings.Clone(row[columns[2]])}
		sizes[app]++
		f := r.admit(key, strings.Clone(row[columns[3]]))
		if f == nil {
			return nil
		}
		for m, text := range row[first : first+minutesPerDay] {
			if text == "0" {
				continue
			}
			n, err := strconv.ParseInt(text, 10, 32)
			if err != nil || n < 0 {
				return fmt.Errorf("minute %d: %q is no number of calls", m+1, text)
			}
			if r.calls += int(n); r.calls > maxCalls {
				return fmt.Errorf("more than %d calls: use -functions to sample or -days to read less", maxCalls)
			}
			if n > 0 {
				f.minutes = append(f.minutes, azureMinute{start + int32(m), int32(n)})
			}
		}
		return nil
	})
	for app, n := range sizes {
		r.appSizes[app] = max(r.appSizes[app], n)
	}
	return err
}

// admit returns the function of a row, or nil if it is not in the sample. The sample
// is those with the smallest hashes, so it does not depend on the order of rows.
func (r *azureReader) admit(key azureKey, trigger string) *azureFunction {
	if f := r.functions[key]; f != nil {
		return f
	}
	h := fnv.New64a()
	fmt.Fprint(h, r.part.Seed, "/", key.owner, "/", key.app, "/", key.function)
	f := &azureFunction{key: key, hash: h.Sum64(), trigger: trigger}
	if r.part.Functions > 0 && len(r.functions) >= r.part.Functions {
		if r.worst == nil {
			for _, o := range r.functions {
				if r.worst == nil || compareHash(o, r.worst) > 0 {
					r.worst = o
				}
			}
		}
		if compareHash(f, r.worst) > 0 {
			return nil
		}
		for _, m := range r.worst.minutes {
			r.calls -= int(m.calls)
		}
		delete(r.functions, r.worst.key)
		r.worst = nil
	}
	r.functions[key] = f
	return f
}

func compareHash(a, b *azureFunction) int {
	return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.key.owner, b.key.owner),
		cmp.Compare(a.key.app, b.key.app), cmp.Compare(a.key.function, b.key.function))
}

// durations reads the run times of the functions that are in the sample; those of
// the first day that has them count.
func (r *azureReader) durations(_ int32, t *csvTable) error {
	names := []string{"HashOwner", "HashApp", "HashFunction"}
	for _, p := range percents {
		names = append(names, fmt.Sprintf("percentile_Average_%d", p))
	}
	columns, err := t.columns(names...)
	if err != nil {
		return err
	}
	return t.rows(func(row []string) error {
		f := r.functions[azureKey{azureApp{row[columns[0]], row[columns[1]]}, row[columns[2]]}]
		if f == nil || f.run != nil {
			return nil
		}
		var run runTimes
		var before float64 // no percentile is below the one before
		for i, column := range columns[3:] {
			if run[i], err = number(row[column], names[3+i]); err != nil {
				return err
			}
			run[i] = max(before, min(run[i], float64(maxRun.Milliseconds())))
			before = run[i]
		}
		f.run = &run
		return nil
	})
}

// memory reads the apps' memory; the largest of all days counts. A file with a
// column HashFunction gives it by function.
func (r *azureReader) memory(_ int32, t *csvTable) error {
	columns, err := t.columns("HashOwner", "HashApp", "AverageAllocatedMb")
	if err != nil {
		return err
	}
	function := slices.Index(t.header, "HashFunction")
	return t.rows(func(row []string) error {
		app := azureApp{row[columns[0]], row[columns[1]]}
		mb, err := number(row[columns[2]], "AverageAllocatedMb")
		if err != nil {
			return err
		}
		mb = min(mb, maxMemory)
		if function < 0 {
			if _, known := r.appMemory[app]; !known {
				app = azureApp{strings.Clone(app.owner), strings.Clone(app.app)}
			}
			r.appMemory[app] = max(r.appMemory[app], mb)
		} else if f := r.functions[azureKey{app, row[function]}]; f != nil {
			f.memory = max(f.memory, mb)
		}
		return nil
	})
}

// trace lays out the calls: the k-th of n in a minute comes after k/n of it.
func (r *azureReader) trace() (*Trace, error) {
	list := make([]*azureFunction, 0, len(r.functions))
	for _, f := range r.functions {
		list = append(list, f)
	}
	slices.SortFunc(list, compareHash)
	shape := PublishedShape()
	rnd := rand.New(rand.NewPCG(r.part.Seed, 1)) //nolint:gosec // a simulation must be repeatable
	t := &Trace{Name: "trace in Azure format", Days: r.days, Calls: make([]Call, 0, r.calls)}
	for i, f := range list {
		mb := f.memory
		if mb == 0 {
			mb = cmp.Or(r.appMemory[f.key.azureApp], unknownMemory) / float64(max(1, r.appSizes[f.key.azureApp]))
		}
		cold := shape.ColdStartMedian.Seconds() * math.Exp(shape.ColdStartSigma*rnd.NormFloat64())
		t.Functions = append(t.Functions, Function{
			Name: f.key.function, Trigger: f.trigger,
			Bytes:     int64(max(mb, shape.MemoryMin)) * mib,
			ColdStart: time.Duration(cold * float64(time.Second)),
		})
		for _, m := range f.minutes {
			for k := range m.calls {
				at := inMinute(int64(m.minute), int(k), int(m.calls))
				t.Calls = append(t.Calls, Call{AtMicros: at, RunMillis: f.run.draw(rnd), Function: int32(i)})
			}
		}
	}
	if len(t.Calls) == 0 {
		return nil, errors.New("the trace has no call")
	}
	t.sort()
	return t, nil
}

// percents are the percentiles that a trace gives of run times.
var percents = [...]int{0, 1, 25, 50, 75, 99, 100}

// runTimes are the percentiles of a function's run times, in milliseconds.
type runTimes [len(percents)]float64

// draw returns a run time: straight lines join the percentiles.
func (r *runTimes) draw(rnd *rand.Rand) int32 {
	ms := unknownRun
	if r != nil {
		u := rnd.Float64() * 100
		i := 1
		for u > float64(percents[i]) {
			i++
		}
		from, to := float64(percents[i-1]), float64(percents[i])
		ms = r[i-1] + (r[i]-r[i-1])*(u-from)/(to-from)
	}
	return max(1, int32(ms))
}

func number(text, what string) (float64, error) {
	x, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(x) || math.IsInf(x, 0) || x < 0 {
		return 0, fmt.Errorf("%s: %q is no amount", what, text)
	}
	return x, nil
}

// csvTable is a CSV file with a header.
type csvTable struct {
	name   string
	header []string
	reader *csv.Reader
}

func readCSV(fsys fs.FS, name string, read func(*csvTable) error) error {
	f, err := fsys.Open(name)
	if err != nil {
		return fmt.Errorf("open the trace: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	t := &csvTable{name: name, reader: csv.NewReader(f)}
	if t.header, err = t.reader.Read(); err != nil {
		return fmt.Errorf("%s: header: %w", name, err)
	}
	t.reader.ReuseRecord = true
	return read(t)
}

// columns returns where the named columns are.
func (t *csvTable) columns(names ...string) ([]int, error) {
	at := make([]int, len(names))
	for i, name := range names {
		if at[i] = slices.Index(t.header, name); at[i] < 0 {
			return nil, fmt.Errorf("%s: no column %s", t.name, name)
		}
	}
	return at, nil
}

// rows reads all rows; each has as many fields as the header.
func (t *csvTable) rows(read func(row []string) error) error {
	for n := 0; ; n++ {
		row, err := t.reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && n >= maxRows {
			err = fmt.Errorf("more than %d rows", maxRows)
		}
		if err != nil { // says the line itself
			return fmt.Errorf("%s: %w", t.name, err)
		}
		if err := read(row); err != nil {
			line, _ := t.reader.FieldPos(0)
			return fmt.Errorf("%s, line %d: %w", t.name, line, err)
		}
	}
}
