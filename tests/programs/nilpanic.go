// Covers: nil dereferences that Go's runtime turns from SIGSEGV into panics, recovered by the caller.
// Expected: prints fixed results, exit 0.
// exact-faults: yes
package main

import "fmt"

type node struct {
	pad  [8]int
	next *node
	key  int
}

//go:noinline
func length(n *node, limit int) int {
	k := 0
	for i := 0; i < limit; i++ {
		k += n.key
		n = n.next
	}
	return k
}

//go:noinline
func guarded(n *node, limit int) (k int, failed bool) {
	defer func() {
		if r := recover(); r != nil {
			failed = true
		}
	}()
	return length(n, limit), false
}

//go:noinline
func store(n *node, v int) (text string) {
	defer func() {
		if r := recover(); r != nil {
			text = fmt.Sprint("store: ", r)
		}
	}()
	n.key = v
	return "stored"
}

func main() {
	list := &node{key: 3, next: &node{key: 5, next: &node{key: 7}}}
	for limit := 1; limit < 6; limit++ {
		fmt.Println(guarded(list, limit))
	}
	fmt.Println(store(list, 1), store(nil, 2))
	failures := 0
	for i := 0; i < 500; i++ {
		if _, failed := guarded(list, i%5); failed {
			failures++
		}
	}
	fmt.Println("failures", failures)
}
