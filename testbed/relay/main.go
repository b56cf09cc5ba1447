// Package main carries TCP connections from this machine's loopback into another network
// namespace: `relay NETNS LISTEN=TARGET...`. The listeners are opened here, then the program runs
// itself again inside the namespace with the listeners inherited, so every connection it makes
// belongs there. A listener whose target does not answer closes the connection at once.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Where the inherited listeners begin: beyond what the runtime itself holds open before the exec,
// two descriptors for each of at most 200 pairs and a few of its own.
const firstListener = 500

// Targets are one hop away; a target that is switched off answers nothing.
const dialLimit = 3 * time.Second

func main() {
	if len(os.Args) < 3 {
		fail(fmt.Errorf("usage: relay NETNS LISTEN=TARGET..."))
	}
	var err error
	if os.Args[1] == "--inside" {
		err = serve(os.Args[2:])
	} else {
		err = enter(os.Args[1], os.Args[2:])
	}
	fail(err)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "relay:", err)
	os.Exit(1)
}

// enter opens the listeners and becomes the program that serves them; it returns only on failure.
func enter(netns string, pairs []string) error {
	for i, pair := range pairs {
		listen, _, found := strings.Cut(pair, "=")
		if !found {
			return fmt.Errorf("%q is not LISTEN=TARGET", pair)
		}
		listener, err := net.Listen("tcp4", listen)
		if err != nil {
			return err
		}
		file, err := listener.(*net.TCPListener).File()
		if err != nil {
			return err
		}
		// Dup3 without flags: the copy survives exec.
		if err := syscall.Dup3(int(file.Fd()), firstListener+i, 0); err != nil {
			return fmt.Errorf("keep the listener of %s: %w", listen, err)
		}
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	words := append([]string{"nsenter", "--net=" + netns, self, "--inside"}, pairs...)
	return syscall.Exec(nsenter, words, os.Environ())
}

func serve(pairs []string) error {
	failed := make(chan error)
	for i, pair := range pairs {
		_, target, _ := strings.Cut(pair, "=")
		syscall.CloseOnExec(firstListener + i)
		file := os.NewFile(uintptr(firstListener+i), "listener "+strconv.Itoa(i))
		listener, err := net.FileListener(file)
		if err != nil {
			return fmt.Errorf("take over %s: %w", pair, err)
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					failed <- err
					return
				}
				go carry(conn.(*net.TCPConn), target)
			}
		}()
	}
	fmt.Println("relaying", strings.Join(pairs, " "))
	return <-failed
}

func carry(from *net.TCPConn, target string) {
	defer from.Close()
	conn, err := net.DialTimeout("tcp4", target, dialLimit)
	if err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		return
	}
	to := conn.(*net.TCPConn)
	defer to.Close()
	done := make(chan struct{})
	go func() {
		pump(to, from)
		close(done)
	}()
	pump(from, to)
	<-done
}

// pump copies one direction to its end and passes the end on; a broken direction breaks both.
func pump(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		from.Close()
		return
	}
	to.CloseWrite()
}
