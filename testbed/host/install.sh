#!/bin/sh
# A cluster's install step on a test host: starts what makes the Node ready, detached from the
# connection. Running it twice is harmless. The journal counts the starts.
set -eu
pidfile=/run/leasekeeper.pid
running() {
  [ -s "$pidfile" ] && state=$(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "/proc/$(cat "$pidfile")/status" 2>/dev/null) &&
    [ -n "$state" ] && [ "$state" != Z ]
}
if running; then
  echo "leasekeeper already runs as $(cat "$pidfile")"
  exit 0
fi
mkdir -p /var/lib/testbed-node
setsid sh -c 'echo $$ > /run/leasekeeper.pid; exec /opt/testbed/leasekeeper /opt/testbed/leasekeeper.json' \
  < /dev/null > /var/log/leasekeeper.log 2>&1 &
tries=0
until running; do
  tries=$((tries + 1))
  if [ "$tries" -gt 100 ]; then
    echo "leasekeeper did not start within 5 s; its log:" >&2
    cat /var/log/leasekeeper.log >&2
    exit 1
  fi
  sleep 0.05
done
echo "installed $(date -u +%FT%TZ)" >> /var/log/testbed-node.log
echo "leasekeeper runs as $(cat "$pidfile")"
