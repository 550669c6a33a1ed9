// A Go program: goroutines on many threads, signals, child processes, networking, its own stacks.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
)

func must(err error) {
	if err != nil {
		fmt.Println("not so:", err)
		os.Exit(99)
	}
}

func goroutines() {
	var wait sync.WaitGroup
	var lock sync.Mutex
	sum := 0
	for i := 0; i < 1000; i++ {
		wait.Add(1)
		go func(n int) {
			defer wait.Done()
			for j := 0; j < 100; j++ {
				runtime.Gosched()
			}
			lock.Lock()
			sum += n
			lock.Unlock()
		}(i)
	}
	wait.Wait()
	fmt.Println("goroutines:", sum)
}

func lockedThreads() {
	var wait sync.WaitGroup
	for i := 0; i < 20; i++ {
		wait.Add(1)
		go func() {
			defer wait.Done()
			runtime.LockOSThread()
			time.Sleep(time.Millisecond)
		}()
	}
	wait.Wait()
	fmt.Println("twenty threads came and went")
}

func signals() {
	got := make(chan os.Signal, 10)
	signal.Notify(got, syscall.SIGUSR1, syscall.SIGTERM)
	must(syscall.Kill(os.Getpid(), syscall.SIGUSR1))
	fmt.Println("signal:", <-got)
	must(syscall.Kill(os.Getpid(), syscall.SIGTERM))
	fmt.Println("signal:", <-got)
	signal.Stop(got)
}

func nilPointer() {
	defer func() { fmt.Println("recovered:", recover()) }()
	var pointer *int
	*pointer = 1
}

func deep(n int) int {
	var frame [1024]byte
	frame[n%1024] = 1
	if n == 0 {
		return int(frame[0])
	}
	return deep(n-1) + int(frame[n%1024])
}

func children() {
	out, err := exec.Command("/bin/sh", "-c", "echo from a child; exit 0").Output()
	must(err)
	fmt.Print(string(out))
	err = exec.Command("/bin/sh", "-c", "exit 3").Run()
	fmt.Println("child:", err)
	_, err = exec.LookPath("no-such-program")
	fmt.Println("lookup failed:", err != nil)
	command := exec.Command("cat")
	in, err := command.StdinPipe()
	must(err)
	pipe, err := command.StdoutPipe()
	must(err)
	must(command.Start())
	fmt.Fprintln(in, "through cat")
	in.Close()
	line, err := bufio.NewReader(pipe).ReadString('\n')
	must(err)
	fmt.Print(line)
	must(command.Wait())
	command = exec.Command("sleep", "100")
	must(command.Start())
	must(command.Process.Kill())
	fmt.Println("killed child:", command.Wait())
}

func network() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "you asked for %s", r.URL.Path)
	}))
	var wait sync.WaitGroup
	good := make(chan bool, 50)
	for i := 0; i < 50; i++ {
		wait.Add(1)
		go func(n int) {
			defer wait.Done()
			answer, err := http.Get(fmt.Sprintf("http://%s/%d", listener.Addr(), n))
			must(err)
			body, err := io.ReadAll(answer.Body)
			must(err)
			answer.Body.Close()
			good <- string(body) == fmt.Sprintf("you asked for /%d", n)
		}(i)
	}
	wait.Wait()
	count := 0
	for i := 0; i < 50; i++ {
		if <-good {
			count++
		}
	}
	fmt.Println("requests answered:", count)
}

func main() {
	goroutines()
	lockedThreads()
	signals()
	nilPointer()
	fmt.Println("deep recursion:", deep(20000))
	for i := 0; i < 5; i++ {
		block := make([]byte, 50<<20)
		block[len(block)-1] = 1
		runtime.GC()
	}
	children()
	network()
	timer := time.NewTimer(20 * time.Millisecond)
	<-timer.C
	fmt.Println("args:", os.Args[1:])
}
