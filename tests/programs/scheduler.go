// Covers: deep recursion with stack growth, 50 goroutines, forced garbage collection, panics and recover, channels,
// select, maps, defer, closures, interfaces, generics, strings, timers, sync primitives, atomics.
// Expected: prints fixed results whatever the scheduling, exit 3.
// exit: 3
package main

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

//go:noinline
func deep(n int, pad [16]int) int {
	if n == 0 {
		return pad[3]
	}
	pad[n%16] += n
	return deep(n-1, pad) + pad[n%7]
}

//go:noinline
func fib(n int) int {
	if n < 2 {
		return n
	}
	return fib(n-1) + fib(n-2)
}

type tree struct {
	left, right *tree
	key         int
	payload     []byte
}

//go:noinline
func build(depth, key int) *tree {
	if depth == 0 {
		return nil
	}
	return &tree{build(depth-1, key*2), build(depth-1, key*2+1), key, make([]byte, 16+key%64)}
}

func (t *tree) sum() int {
	if t == nil {
		return 0
	}
	return t.key + len(t.payload) + t.left.sum()*3 - t.right.sum()
}

type shape interface {
	area() float64
	name() string
}
type rect struct{ w, h float64 }
type circle struct{ r float64 }

func (r rect) area() float64    { return r.w * r.h }
func (r rect) name() string     { return "rect" }
func (c *circle) area() float64 { return 3 * c.r * c.r }
func (c *circle) name() string  { return "circle" }

type parseError struct{ at int }

func (e *parseError) Error() string { return fmt.Sprintf("parse error at %d", e.at) }

var errBase = errors.New("base")

//go:noinline
func parse(s string) (n int, err error) {
	for i, c := range s {
		if c < '0' || c > '9' {
			if c == '!' {
				return 0, fmt.Errorf("wrapped: %w", errBase)
			}
			return 0, &parseError{i}
		}
		n = n*10 + int(c-'0')
	}
	return n, nil
}

//go:noinline
func panics(kind int) (result string) {
	defer func() {
		if r := recover(); r != nil {
			if e, ok := r.(runtime.Error); ok {
				result = "runtime: " + e.Error()
			} else {
				result = fmt.Sprint("value: ", r)
			}
		}
	}()
	defer func() { result += "unused" }()
	var m map[string]int
	values := []int{1, 2, 3}
	zero := len(values) - 3
	switch kind {
	case 0:
		panic("text")
	case 1:
		return fmt.Sprint(values[kind+5])
	case 2:
		return fmt.Sprint(kind / zero)
	case 3:
		panic(fmt.Errorf("%w twice", errBase))
	case 4:
		m["x"] = 1
	case 5:
		var s shape
		return fmt.Sprint(s.(*circle).r)
	case 6:
		panic(&parseError{6})
	case 7:
		_ = values[zero+3 : kind-6+zero]
	}
	return "fine "
}

//go:noinline
func nested(depth int) (log string) {
	defer func() {
		if r := recover(); r != nil {
			log = fmt.Sprintf("%d<%v>", depth, r)
			if depth > 2 {
				panic(log)
			}
		}
	}()
	if depth == 5 {
		panic("core")
	}
	return nested(depth + 1)
}

//go:noinline
func defers(n int) (s int) {
	for i := 0; i < n; i++ {
		defer func(k int) { s = s*3 + k }(i)
	}
	return 1
}

func counter() func() int { n := 0; return func() int { n += 3; return n } }

type number interface{ ~int | ~int64 | ~float64 }

func reduce[T number](v []T, f func(a, b T) T) T {
	var r T
	for _, x := range v {
		r = f(r, x)
	}
	return r
}

//go:noinline
func worker(id int, in <-chan int, out chan<- int, wg *sync.WaitGroup) {
	defer wg.Done()
	seen := map[int]int{}
	for v := range in {
		seen[v%7] += v
		if v%16 == 0 {
			runtime.Gosched()
		}
		out <- v*v + deep(v%60, [16]int{3: id * 0})
	}
	_ = seen
}

//go:noinline
func mix(v uint64) uint64 {
	v ^= v >> 33
	v *= 0xff51afd7ed558ccd
	v ^= v >> 29
	return v<<17 | v>>47
}

func main() {
	fmt.Println("fib", fib(18), "deep", deep(20000, [16]int{3: 7}))
	in, out := make(chan int), make(chan int, 8)
	var wg sync.WaitGroup
	for i := 0; i < 50; i++ {
		wg.Add(1)
		go worker(i, in, out, &wg)
	}
	go func() {
		for i := 0; i < 2000; i++ {
			in <- i
		}
		close(in)
		wg.Wait()
		close(out)
	}()
	total := 0
	for v := range out {
		total += v
		if total%997 == 0 {
			runtime.GC()
		}
	}
	fmt.Println("workers", total)
	t := build(10, 1)
	for i := 0; i < 5; i++ {
		runtime.GC()
		_ = build(6, i)
	}
	fmt.Println("tree", t.sum())
	for k := 0; k < 9; k++ {
		fmt.Println(panics(k))
	}
	fmt.Println(nested(0), defers(12))
	shapes := []shape{rect{2, 3}, &circle{2}, rect{1.5, 4}}
	sort.Slice(shapes, func(i, j int) bool { return shapes[i].area() < shapes[j].area() })
	for _, s := range shapes {
		switch v := s.(type) {
		case rect:
			fmt.Print(v.name(), v.w, " ")
		case *circle:
			fmt.Print(v.name(), v.r, " ")
		}
	}
	fmt.Println()
	words := map[string]int{}
	text := strings.Repeat("the quick brown fox jumps over the lazy dog ", 40)
	for _, w := range strings.Fields(text) {
		words[strings.ToUpper(w)]++
	}
	keys := make([]string, 0, len(words))
	for k := range words {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	fmt.Println(keys, words["THE"], crc32.ChecksumIEEE([]byte(text)))
	for _, s := range []string{"123", "12x", "9!"} {
		n, err := parse(s)
		var pe *parseError
		fmt.Println(n, err, errors.As(err, &pe), errors.Is(err, errBase))
	}
	c := counter()
	for i := 0; i < 10; i++ {
		c()
	}
	fmt.Println("closure", c(), reduce([]int{1, 2, 3}, func(a, b int) int { return a*10 + b }), reduce([]float64{1.5, 2.5}, func(a, b float64) float64 { return a + b }))
	var hits atomic.Int64
	var mu sync.Mutex
	guarded := 0
	var group sync.WaitGroup
	for i := 0; i < 20; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			defer func() { recover() }()
			for k := 0; k < 200; k++ {
				hits.Add(int64(k & 3))
				mu.Lock()
				guarded += k
				mu.Unlock()
			}
			panic(i)
		}()
	}
	group.Wait()
	fmt.Println("atomic", hits.Load(), guarded)
	timer := time.NewTimer(3 * time.Millisecond)
	ticks := 0
	ticker := time.NewTicker(500 * time.Microsecond)
loop:
	for {
		select {
		case <-timer.C:
			break loop
		case <-ticker.C:
			ticks++
		default:
			runtime.Gosched()
		}
	}
	ticker.Stop()
	h := uint64(1)
	for i := 0; i < 200000; i++ {
		h = mix(h + uint64(i))
	}
	fmt.Printf("mix %x ticked %v\n", h, ticks >= 0)
	os.Exit(3)
}
