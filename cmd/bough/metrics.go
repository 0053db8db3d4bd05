package main

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/bough-db/bough/cow"
	"github.com/bough-db/bough/objstore"
)

// Metrics implements api.Daemon.
func (b *backend) Metrics(w http.ResponseWriter, r *http.Request) { b.metrics.ServeHTTP(w, r) }

// metrics collects what the daemon counts, when somebody asks. It makes no request to the
// store.
type metrics struct {
	b *backend

	requests, refusals, failures, storeBytes, storeSeconds *prometheus.Desc
	took                                                   *prometheus.Desc
	journal, journalMax, waiting                           *prometheus.Desc
	hits, misses, cacheBytes, corrupt                      *prometheus.Desc
	exposure, exposureAge, seq, clients                    *prometheus.Desc
	stored, history, historyMax                            *prometheus.Desc
	runs, collectWritten, collectFreed, collectFailed      *prometheus.Desc
}

func newMetrics(b *backend) http.Handler {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("bough_"+name, help, labels, nil)
	}
	m := &metrics{
		b:            b,
		requests:     desc("store_requests_total", "Requests to the store that have ended.", "verb"),
		refusals:     desc("store_refusals_total", "Requests whose answer was an error: not there, there already, changed.", "verb"),
		failures:     desc("store_failures_total", "Requests that ended without an answer to the question.", "verb"),
		storeBytes:   desc("store_bytes_total", "Bytes of object contents, sent or received.", "verb"),
		storeSeconds: desc("store_seconds_total", "Sum of the durations of the requests.", "verb"),
		took:         desc("branch_seconds", "How long reads, writes and flushes of branches took, and uploads of segments.", "operation"),
		journal:      desc("journal_bytes", "Journals of what is not yet in the store."),
		journalMax:   desc("journal_max_bytes", "What they may take; writers wait then."),
		waiting:      desc("journal_waiting_writers", "Writers that wait for a journal file."),
		hits:         desc("cache_hits_total", "Reads answered by a tier of the cache.", "tier"),
		misses:       desc("cache_misses_total", "Reads that went on to the next tier, or the store.", "tier"),
		cacheBytes:   desc("cache_bytes", "Bytes of frames in memory."),
		corrupt:      desc("cache_corrupt_total", "Slots of the disk cache that did not agree with their checksum."),
		exposure:     desc("branch_exposure_bytes", "What of a branch is durable here and not yet in the store.", "project", "branch"),
		exposureAge:  desc("branch_exposure_seconds", "For how long the oldest of that has been.", "project", "branch"),
		seq:          desc("branch_barrier", "Number of the last barrier of a branch.", "project", "branch"),
		clients:      desc("branch_clients", "Clients that are connected through the front door.", "project", "branch"),
		stored:       desc("stored_bytes", "What all objects took when it was measured last."),
		history:      desc("history_bytes", "What of it only the past of branches needs."),
		historyMax:   desc("history_max_bytes", "What that may take; 0 is no bound."),
		runs:         desc("collections_total", "Collections that this daemon has run."),

		collectWritten: desc("collect_written_bytes_total", "Packs that they have written."),
		collectFreed:   desc("collect_freed_bytes_total", "Bytes of objects that they have deleted."),
		collectFailed:  desc("collect_failed", "1 if the last one failed."),
	}
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
}

// Describe implements prometheus.Collector. Nothing said is anything allowed.
func (m *metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, t, v, labels...)
	}
	counter := func(d *prometheus.Desc, v float64, labels ...string) { send(d, prometheus.CounterValue, v, labels...) }
	gauge := func(d *prometheus.Desc, v float64, labels ...string) { send(d, prometheus.GaugeValue, v, labels...) }

	for v, c := range m.b.meter.Snapshot() {
		verb := objstore.Verb(v).String()
		counter(m.requests, float64(c.Requests), verb)
		counter(m.refusals, float64(c.Refusals), verb)
		counter(m.failures, float64(c.Failures), verb)
		counter(m.storeBytes, float64(c.Bytes), verb)
		counter(m.storeSeconds, c.Time.Seconds(), verb)
	}
	t := m.b.store.Timings()
	for what, t := range map[string]cow.Timing{"read": t.Read, "write": t.Write, "flush": t.Flush, "upload": t.Upload} {
		classes, sum := map[float64]uint64{}, uint64(0)
		for i, n := range t.Classes {
			sum += n
			classes[cow.TimingBounds[i].Seconds()] = sum
		}
		out <- prometheus.MustNewConstHistogram(m.took, t.Count, t.Sum.Seconds(), classes, what)
	}
	j, c := m.b.journalStatus(), m.b.cacheStatus()
	gauge(m.journal, float64(j.UsedBytes))
	gauge(m.journalMax, float64(j.BytesMax))
	gauge(m.waiting, float64(m.b.journals.Stats().Waiting))
	counter(m.hits, float64(c.MemoryHits), "memory")
	counter(m.misses, float64(c.MemoryMisses), "memory")
	counter(m.hits, float64(c.DiskHits), "disk")
	counter(m.misses, float64(c.DiskMisses), "disk")
	gauge(m.cacheBytes, float64(c.MemoryBytes))
	counter(m.corrupt, float64(c.DiskCorrupt))

	clients := map[[2]string]int{}
	for _, s := range m.b.door.Sessions() {
		clients[[2]string{s.Project, s.Branch}]++
	}
	for _, info := range m.b.disks.all() {
		open := m.b.disks.get(info.ID)
		if open == nil {
			continue // closed meanwhile
		}
		s, age := open.Status(), 0.0
		if !s.Oldest.IsZero() {
			age = max(0, m.b.app.now().Sub(s.Oldest).Seconds())
		}
		gauge(m.exposure, float64(s.Exposure), info.Project, info.Name)
		gauge(m.exposureAge, age, info.Project, info.Name)
		gauge(m.seq, float64(s.Seq), info.Project, info.Name)
		gauge(m.clients, float64(clients[[2]string{info.Project, info.Name}]), info.Project, info.Name)
	}
	if u := m.b.store.LastUsage(); u != nil {
		gauge(m.stored, float64(u.Total))
		gauge(m.history, float64(u.History))
	}
	g := m.b.collector.state()
	gauge(m.historyMax, float64(g.HistoryBytesMax))
	counter(m.runs, float64(g.Runs))
	counter(m.collectWritten, float64(g.WrittenBytes))
	counter(m.collectFreed, float64(g.FreedBytes))
	failed := 0.0
	if g.Error != "" {
		failed = 1
	}
	gauge(m.collectFailed, failed)
}
