//go:build linux && !386 && !arm && !mips && !mipsle

package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Limits of whoever reads metrics.
const (
	metricsHeaderTimeout = 5 * time.Second
	metricsWriteTimeout  = 10 * time.Second
)

// serveMetrics serves the numbers of a mount over HTTP until stop is called.
// The address is taken before it returns.
func serveMetrics(addr string, live *liveMount, log *slog.Logger) (stop func(), err error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		s := live.stats()
		writeMetrics(w, &s)
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: metricsHeaderTimeout, WriteTimeout: metricsWriteTimeout, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	go srv.Serve(l)
	log.Info("metrics", "addr", l.Addr().String())
	return func() { srv.Close() }, nil
}
