#!/bin/sh
# A cluster's teardown step on a test host: ends what makes the Node ready and waits until it is
# gone. Nothing running is success too.
set -eu
pidfile=/run/leasekeeper.pid
if [ -s "$pidfile" ]; then
  pid=$(cat "$pidfile")
  alive() {
    state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$pid/status" 2>/dev/null) || return 1
    [ -n "$state" ] && [ "$state" != Z ]
  }
  kill -TERM "$pid" 2>/dev/null || true
  tries=0
  while alive; do
    tries=$((tries + 1))
    [ "$tries" -eq 100 ] && kill -KILL "$pid" 2>/dev/null
    if [ "$tries" -gt 200 ]; then
      echo "leasekeeper $pid still runs 10 s after SIGTERM and SIGKILL" >&2
      exit 1
    fi
    sleep 0.05
  done
  rm -f "$pidfile"
fi
rm -rf /var/lib/testbed-node
echo "torn down $(date -u +%FT%TZ)" >> /var/log/testbed-node.log
