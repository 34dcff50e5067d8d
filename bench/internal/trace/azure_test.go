package trace

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// azureDay writes an invocation file: one row for each function, with calls by minute.
func azureDay(rows map[string]map[int]int, order ...string) string {
	var b strings.Builder
	b.WriteString("HashOwner,HashApp,HashFunction,Trigger")
	for m := range minutesPerDay {
		fmt.Fprintf(&b, ",%d", m+1)
	}
	for _, name := range order {
		fmt.Fprintf(&b, "\n%s", name)
		for m := range minutesPerDay {
			fmt.Fprintf(&b, ",%d", rows[name][m])
		}
	}
	b.WriteString("\n")
	return b.String()
}

const (
	durationsHeader = "HashOwner,HashApp,HashFunction,Average,Count,Minimum,Maximum,percentile_Average_0,percentile_Average_1," +
		"percentile_Average_25,percentile_Average_50,percentile_Average_75,percentile_Average_99,percentile_Average_100\n"
	memoryHeader = "HashOwner,HashApp,SampleCount,AverageAllocatedMb,AverageAllocatedMb_pct1\n"
)

func files(of map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, text := range of {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

func small() map[string]string {
	return map[string]string{
		"invocations_per_function_md.anon.d01.csv": azureDay(map[string]map[int]int{
			"o,a,f,http": {0: 2, 5: 1}, "o,a,g,timer": {3: 1}, "o,b,h,queue": {1439: 4},
		}, "o,a,f,http", "o,a,g,timer", "o,b,h,queue"),
		"invocations_per_function_md.anon.d02.csv": azureDay(map[string]map[int]int{
			"o,a,g,timer": {3: 1},
		}, "o,a,g,timer"),
		"function_durations_percentiles.anon.d01.csv": durationsHeader + "o,a,f,5,3,5,5,5,5,5,5,5,5,5\no,x,unknown,1,1,1,1,1,1,1,1,1,1,1\n",
		"app_memory_percentiles.anon.d01.csv":         memoryHeader + "o,a,10,300,290\no,b,10,120.5,100\n",
		"README.txt":                                  "not a trace",
	}
}

func TestReadAzure(t *testing.T) {
	t.Parallel()
	trace, err := ReadAzure(files(small()), Part{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	type call struct {
		At, Run  time.Duration
		Function string
	}
	var got []call
	for _, c := range trace.Calls {
		got = append(got, call{c.At(), c.Run(), trace.Functions[c.Function].Name})
	}
	minute := func(m int) time.Duration { return time.Duration(m) * time.Minute }
	want := []call{
		{0, 5 * time.Millisecond, "f"}, {30 * time.Second, 5 * time.Millisecond, "f"},
		{minute(3), time.Second, "g"}, {minute(5), 5 * time.Millisecond, "f"},
		{minute(1439), time.Second, "h"}, {minute(1439) + 15*time.Second, time.Second, "h"},
		{minute(1439) + 30*time.Second, time.Second, "h"}, {minute(1439) + 45*time.Second, time.Second, "h"},
		{minute(1443), time.Second, "g"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	memory := map[string]int64{}
	for _, f := range trace.Functions {
		memory[f.Name] = f.Bytes / mib
		if f.ColdStart <= 0 {
			t.Errorf("%s starts in %v", f.Name, f.ColdStart)
		}
	}
	if diff := cmp.Diff(map[string]int64{"f": 150, "g": 150, "h": 120}, memory); diff != "" {
		t.Errorf("memory: %s", diff)
	}
	if trace.Days != 2 {
		t.Errorf("%d days", trace.Days)
	}
}

// TestSampleIsStable: which functions are sampled depends on neither order nor days.
func TestSampleIsStable(t *testing.T) {
	t.Parallel()
	rows, order := map[string]map[int]int{}, []string{}
	for i := range 50 {
		name := fmt.Sprintf("o,a%d,f%d,http", i, i)
		rows[name], order = map[int]int{i: 1}, append(order, name)
	}
	names := func(order []string, part Part) (names []string) {
		t.Helper()
		trace, err := ReadAzure(files(map[string]string{
			"invocations_per_function_md.anon.d01.csv": azureDay(rows, order...),
			"invocations_per_function_md.anon.d02.csv": azureDay(rows, order[:20]...),
		}), part)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range trace.Functions {
			names = append(names, f.Name)
		}
		return names
	}
	reversed := make([]string, 0, len(order))
	for i := range order {
		reversed = append(reversed, order[len(order)-1-i])
	}
	first := names(order, Part{Functions: 10, Seed: 1})
	if len(first) != 10 {
		t.Errorf("sampled %v", first)
	}
	if diff := cmp.Diff(first, names(reversed, Part{Functions: 10, Seed: 1, Days: 1})); diff != "" {
		t.Errorf("another order, another sample: %s", diff)
	}
	if cmp.Equal(first, names(order, Part{Functions: 10, Seed: 2})) {
		t.Error("another seed, the same sample")
	}
}

// TestShortNames: samples of the trace have short file names and memory by function.
func TestShortNames(t *testing.T) {
	t.Parallel()
	trace, err := ReadAzure(files(map[string]string{
		"invocations.csv": azureDay(map[string]map[int]int{"o,a,f,http": {0: 1}}, "o,a,f,http", "o,a,g,http"),
		"durations.csv":   durationsHeader,
		"memory.csv":      "HashOwner,HashApp,HashFunction,SampleCount,AverageAllocatedMb\no,a,f,1,200\n",
	}), Part{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range trace.Functions {
		if want := map[string]int64{"f": 200, "g": 85}[f.Name]; f.Bytes/mib != want {
			t.Errorf("%s takes %d MiB, want %d", f.Name, f.Bytes/mib, want)
		}
	}
}

func TestReadAzureRefuses(t *testing.T) {
	t.Parallel()
	const day1, durations, memory = "invocations_per_function_md.anon.d01.csv", "function_durations_percentiles.anon.d01.csv", "app_memory_percentiles.anon.d01.csv"
	good := small()[day1]
	for name, test := range map[string]struct{ file, text, want string }{
		"no number":        {day1, strings.Replace(good, ",4\n", ",four\n", 1), `line 4: minute 1440: "four"`},
		"negative":         {day1, strings.Replace(good, ",4\n", ",-4\n", 1), `"-4"`},
		"too many":         {day1, strings.Replace(good, ",4\n", ",2147483647\n", 1), "more than 50000000 calls"},
		"short row":        {day1, good + "o,a,z,http,1\n", "wrong number of fields"},
		"no column":        {day1, strings.Replace(good, "Trigger", "Tricker", 1), "no column Trigger"},
		"few minutes":      {day1, "HashOwner,HashApp,HashFunction,Trigger,1,2\n", "2 columns"},
		"quote":            {day1, good + "\"o,a\n", "parse error"},
		"empty":            {day1, "", "header"},
		"durations":        {durations, durationsHeader + "o,a,f,5,3,5,5,NaN,5,5,5,5,5,5\n", "line 2: percentile_Average_0"},
		"durations column": {durations, "HashOwner\n", "no column HashApp"},
		"memory":           {memory, memoryHeader + "o,a,10,-1,290\n", "line 2: AverageAllocatedMb"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			of := small()
			of[test.file] = test.text
			_, err := ReadAzure(files(of), Part{})
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.file) {
				t.Errorf("error %v, want %q in %s", err, test.want, test.file)
			}
		})
	}
	for name, fsys := range map[string]fstest.MapFS{
		"no file":  {},
		"no calls": files(map[string]string{day1: azureDay(nil)}),
	} {
		if _, err := ReadAzure(fsys, Part{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := ReadAzure(os.DirFS("/nowhere-at-all"), Part{}); err == nil {
		t.Error("a folder that is not there: no error")
	}
}

// FuzzReadAzure: whatever the files hold, the reader returns an error or a trace in
// order that names its own functions.
func FuzzReadAzure(f *testing.F) {
	of := small()
	head, _, _ := strings.Cut(of["invocations_per_function_md.anon.d01.csv"], "\n")
	f.Add("o,a,f,http,0,7", of["function_durations_percentiles.anon.d01.csv"], of["app_memory_percentiles.anon.d01.csv"], uint8(0))
	f.Add("\"o\"\"\n,a,f,http,1", durationsHeader+"o,a,f,1e308,1,1,1,1e308,0,0,0,0,0,0", memoryHeader+"o,a,1,1e300,1", uint8(1))
	f.Add("", "", "", uint8(2))
	f.Fuzz(func(t *testing.T, row, durations, memory string, sample uint8) {
		// The other minutes are filled up, or hardly any row would be long enough.
		if missing := 4 + minutesPerDay - 1 - strings.Count(row, ","); missing > 0 {
			row += strings.Repeat(",0", missing)
		}
		if len(row) > 1<<16 || strings.Count(row, "\n") > 10 {
			return
		}
		trace, err := ReadAzure(files(map[string]string{
			"invocations.csv": head + "\n" + row + "\no,a,z,timer" + strings.Repeat(",0", minutesPerDay-1) + ",1\n",
			"durations.csv":   durations, "memory.csv": memory,
		}), Part{Functions: int(sample), Seed: 1})
		if err != nil || len(trace.Calls) > 100_000 {
			return
		}
		last := int64(-1)
		for _, c := range trace.Calls {
			if c.AtMicros < last || c.RunMillis < 1 || int(c.Function) >= len(trace.Functions) {
				t.Fatalf("call %+v after %d", c, last)
			}
			last = c.AtMicros
		}
		for _, function := range trace.Functions {
			if function.Bytes <= 0 || function.Bytes > maxMemory*mib || function.ColdStart <= 0 {
				t.Fatalf("function %+v", function)
			}
		}
	})
}
