// Package ordered does work in parallel and hands the results over in the order
// in which the work was given.
package ordered

import (
	"context"
	"sync"
)

// Run calls produce, which gives jobs one after the other to submit; workers
// goroutines carry them out; consume gets each job's result, in order, on the
// caller's goroutine. At most ahead jobs are given but not yet consumed, which
// bounds the memory that results take.
//
// The first error of produce or consume ends everything, and Run returns it
// after all goroutines are done. A job that can fail says so in its result.
// submit returns false when produce shall return.
func Run[T any](ctx context.Context, workers, ahead int, produce func(submit func(job func() T) bool) error, consume func(T) error) error {
	ctx, cancel := context.WithCancel(ctx)
	type slot struct {
		job  func() T
		done chan T
	}
	todo := make(chan slot)
	// One slot is in the consumer's hands and one in the producer's.
	order := make(chan slot, max(1, ahead-2))
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for s := range todo {
				s.done <- s.job()
			}
		})
	}
	var produceErr error
	wg.Go(func() {
		defer close(order)
		defer close(todo)
		produceErr = produce(func(job func() T) bool {
			s := slot{job, make(chan T, 1)}
			for _, c := range []chan slot{order, todo} {
				select {
				case c <- s:
				case <-ctx.Done():
					return false
				}
			}
			return true
		})
	})
	err := consumeAll(ctx, order, func(s slot) (T, bool) {
		select {
		case v := <-s.done:
			return v, true
		case <-ctx.Done():
			var zero T
			return zero, false
		}
	}, consume)
	cancel()
	wg.Wait()
	if err == nil {
		err = produceErr
	}
	return err
}

func consumeAll[S, T any](ctx context.Context, order chan S, wait func(S) (T, bool), consume func(T) error) error {
	for s := range order {
		v, ok := wait(s)
		if !ok {
			return context.Cause(ctx)
		}
		if err := consume(v); err != nil {
			return err
		}
	}
	return context.Cause(ctx) // nil unless the caller gave up
}
