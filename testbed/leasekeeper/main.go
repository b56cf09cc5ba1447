// Package main stands in for the kubelet on a test host: it creates the host's Node when it is
// missing, renews the Node's Lease every second and keeps its Ready condition true. When it stops,
// the node lifecycle controller finds the Node not ready, as with a real kubelet.
//
// Its clock is the machine's plus the seconds in /etc/testbed-clock, if there are any: testbed/host/clock.c
// does the same for the host's other programs.
//
// It runs no pods. It needs no libraries, so that it stays a small static binary.
package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// renewEvery is below the controller's grace period of 5 s with room for two lost requests.
const renewEvery = time.Second

// statusEvery is kubelet's own nodeStatusUpdateFrequency: writing more often would make claims by
// resourceVersion conflict more than on a real cluster.
const statusEvery = 10 * time.Second

type settings struct {
	Server      string            `json:"server"`
	CAFile      string            `json:"caFile"`
	Token       string            `json:"token"`
	Node        string            `json:"node"`
	InternalIP  string            `json:"internalIP"`
	Labels      map[string]string `json:"labels"`
	CPU         string            `json:"cpu"`
	Memory      string            `json:"memory"`
	Pods        string            `json:"pods"`
	KubeVersion string            `json:"kubeVersion"`
}

type object = map[string]any

type keeper struct {
	settings
	client    *http.Client
	machineID string
	bootID    string
}

var errNotFound = errors.New("not found")

func main() {
	path := "/opt/testbed/leasekeeper.json"
	if len(os.Args) > 1 {
		path = os.Args[1]
	}
	k, err := load(path)
	if err != nil {
		log.Fatalf("leasekeeper: %v", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	k.keep(ctx)
}

func load(path string) (*keeper, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	k := &keeper{}
	if err := json.Unmarshal(text, &k.settings); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	ca, err := os.ReadFile(k.CAFile)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("%s holds no certificate", k.CAFile)
	}
	k.client = &http.Client{
		Timeout:   3 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}},
	}
	if k.machineID, err = line("/etc/machine-id"); err != nil {
		return nil, err
	}
	k.bootID, err = line("/proc/sys/kernel/random/boot_id")
	return k, err
}

// now is what the host takes for the time.
func now() time.Time {
	text, err := line("/etc/testbed-clock")
	if err != nil {
		return time.Now()
	}
	seconds, err := strconv.Atoi(text)
	if err != nil {
		log.Fatalf("leasekeeper: /etc/testbed-clock: %v", err)
	}
	return time.Now().Add(time.Duration(seconds) * time.Second)
}

func line(path string) (string, error) {
	text, err := os.ReadFile(path)
	return strings.TrimSpace(string(text)), err
}

func (k *keeper) keep(ctx context.Context) {
	var reported time.Time
	first := true
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		written, err := k.turn(ctx, first, reported)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			log.Printf("leasekeeper: %v", err)
		}
		if written {
			reported, first = time.Now(), false
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// turn renews the Lease, then writes the status if it is due. It says whether it wrote the status.
func (k *keeper) turn(ctx context.Context, first bool, reported time.Time) (bool, error) {
	node, err := k.call(ctx, "GET", "/api/v1/nodes/"+k.Node, "", nil)
	if errors.Is(err, errNotFound) {
		first = true
		node, err = k.call(ctx, "POST", "/api/v1/nodes", "application/json", object{
			"apiVersion": "v1", "kind": "Node",
			"metadata": object{"name": k.Node, "labels": k.Labels},
		})
	}
	if err != nil {
		return false, fmt.Errorf("node: %w", err)
	}
	if err := k.renew(ctx, node); err != nil {
		return false, fmt.Errorf("lease: %w", err)
	}
	ready, since := readiness(node)
	if !first && ready && time.Since(reported) < statusEvery {
		return false, nil
	}
	if err := k.report(ctx, ready, since); err != nil {
		return false, fmt.Errorf("status: %w", err)
	}
	return true, nil
}

func (k *keeper) renew(ctx context.Context, node object) error {
	const leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
	spec := object{
		"holderIdentity": k.Node, "leaseDurationSeconds": 40,
		"renewTime": now().UTC().Format("2006-01-02T15:04:05.000000Z"),
	}
	meta, _ := node["metadata"].(object)
	owner := []object{{"apiVersion": "v1", "kind": "Node", "name": k.Node, "uid": meta["uid"]}}
	_, err := k.call(ctx, "PATCH", leases+"/"+k.Node, "application/merge-patch+json",
		object{"metadata": object{"ownerReferences": owner}, "spec": spec})
	if errors.Is(err, errNotFound) {
		_, err = k.call(ctx, "POST", leases, "application/json", object{
			"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
			"metadata": object{"name": k.Node, "ownerReferences": owner}, "spec": spec,
		})
	}
	return err
}

func readiness(node object) (ready bool, since string) {
	status, _ := node["status"].(object)
	conditions, _ := status["conditions"].([]any)
	for _, each := range conditions {
		if c, _ := each.(object); c["type"] == "Ready" {
			since, _ = c["lastTransitionTime"].(string)
			return c["status"] == "True", since
		}
	}
	return false, ""
}

func (k *keeper) report(ctx context.Context, wasReady bool, since string) error {
	at := now().UTC().Format(time.RFC3339)
	if !wasReady || since == "" {
		since = at
	}
	room := object{"cpu": k.CPU, "memory": k.Memory, "pods": k.Pods}
	conditions := []object{{
		"type": "Ready", "status": "True", "reason": "LeasekeeperReady",
		"message":            "leasekeeper is running",
		"lastHeartbeatTime":  at,
		"lastTransitionTime": since,
	}}
	for _, kind := range []string{"MemoryPressure", "DiskPressure", "PIDPressure"} {
		conditions = append(conditions, object{
			"type": kind, "status": "False", "reason": "LeasekeeperEnough",
			"message": "test hosts have enough", "lastHeartbeatTime": at,
		})
	}
	_, err := k.call(ctx, "PATCH", "/api/v1/nodes/"+k.Node+"/status",
		"application/strategic-merge-patch+json", object{"status": object{
			"capacity": room, "allocatable": room, "conditions": conditions,
			"addresses": []object{
				{"type": "InternalIP", "address": k.InternalIP},
				{"type": "Hostname", "address": k.Node},
			},
			"nodeInfo": object{
				"machineID": k.machineID, "systemUUID": k.machineID, "bootID": k.bootID,
				"kernelVersion": "6.1.0", "osImage": "Debian GNU/Linux 12 (bookworm)",
				"containerRuntimeVersion": "kwok://0.8.0", "kubeletVersion": k.KubeVersion,
				"kubeProxyVersion": k.KubeVersion, "operatingSystem": "linux",
				"architecture": "amd64",
			},
		}})
	return err
}

func (k *keeper) call(ctx context.Context, method, path, kind string, body object) (object, error) {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, k.Server+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+k.Token)
	request.Header.Set("User-Agent", "leasekeeper")
	if kind != "" {
		request.Header.Set("Content-Type", kind)
	}
	answer, err := k.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(io.LimitReader(answer.Body, 4<<20))
	if err != nil {
		return nil, err
	}
	switch {
	case answer.StatusCode == http.StatusNotFound:
		return nil, errNotFound
	case answer.StatusCode >= 300:
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, got)
	}
	parsed := object{}
	return parsed, json.Unmarshal(got, &parsed)
}
