#!/usr/bin/env bash
# check-running.sh PROGRAMS: three nodes on this machine under load. Prometheus scrapes them and every query of the dashboard
# must return data; then each node is restarted in turn, and no call of a producer may fail.
set -euo pipefail
cd "$(dirname "$0")/.."
export LANCE=$1/lance LNC=$1/lnc LNC_SERVER=127.0.0.1:2201,127.0.0.1:2202,127.0.0.1:2203
command -v prometheus >/dev/null || { echo "no prometheus" >&2; exit 1; }
work=$(mktemp -d)
others=()

clean_up() {
  local node
  touch "$work/stop"
  kill "${others[@]}" 2>/dev/null || true
  for node in 1 2 3; do
    [[ ! -f $work/node-$node/pid ]] || kill -KILL "$(<"$work/node-$node/pid")" 2>/dev/null || true
  done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT

for node in 1 2 3; do
  mkdir "$work/node-$node"
  cat >"$work/node-$node/node.toml" <<TOML
[node]
id = $node
data_dir = "$work/node-$node/data"
[network]
bind = "127.0.0.1:220$node"
[admin]
bind = "127.0.0.1:985$node"
[replication]
peers = ["127.0.0.1:2201", "127.0.0.1:2202", "127.0.0.1:2203"]
[topics]
default_replication_factor = 3
TOML
  "$LANCE" --config "$work/node-$node/node.toml" >>"$work/node-$node/log" 2>&1 &
  echo $! >"$work/node-$node/pid"
done
cat >"$work/prometheus.yml" <<YAML
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: ["$PWD/docs/monitoring/lance-alerts.yml"]
scrape_configs:
  - job_name: lance
    static_configs: [{targets: ["127.0.0.1:9851", "127.0.0.1:9852", "127.0.0.1:9853"]}]
YAML
promtool check config "$work/prometheus.yml" >/dev/null
prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/prometheus" --web.listen-address=127.0.0.1:9899 \
  >"$work/prometheus.log" 2>&1 &
others+=($!)
for node in 1 2 3; do
  timeout 60 bash -c "until curl -fs 127.0.0.1:985$node/health/ready; do sleep 0.2; done" >/dev/null
done
"$LNC" topic create load --partitions 6 >/dev/null
"$LNC" topic create calls --partitions 3 >/dev/null
"$LNC" topic tee add load --to 127.0.0.1:2201/copy >/dev/null

# A stream over one connection, a call of its own again and again, and a group that reads what the stream sends.
{ number=0; while [[ ! -e $work/stop ]]; do echo "record $((number += 1))"; sleep 0.002; done; echo "$number" >"$work/sent"; } |
  "$LNC" produce --topic load >"$work/stream" 2>&1 &
stream=$!
{
  made=0 failed=0
  while [[ ! -e $work/stop ]]; do
    made=$((made + 1))
    "$LNC" produce --topic calls --data "call $made" >/dev/null 2>>"$work/failures" || failed=$((failed + 1))
  done
  echo "$made $failed" >"$work/calls"
} &
calls=$!
"$LNC" consume --topic load --group readers --offset earliest >/dev/null 2>"$work/group" &
others+=($!)
# Only fetches that ask not to wait have a latency.
"$LNC" topic create read --partitions 1 >/dev/null
seq 1 20000 | "$LNC" produce --topic read >/dev/null
leader=$("$LNC" topic describe read | sed -n 's/^partition 0  leader \([0-9]*\),.*/\1/p')
{
  while [[ ! -e $work/stop ]]; do
    "$LNC-bench" consume --server "127.0.0.1:220$leader" --topic read --fetch-bytes 4KiB --warm-up 0s --duration 200ms || true
    sleep 1
  done
} >/dev/null 2>&1 &

echo "queries of the dashboard, under load"
python3 - docs/monitoring/lance-dashboard.json http://127.0.0.1:9899 <<'PYTHON'
import json, sys, time, urllib.parse, urllib.request

dashboard, prometheus = sys.argv[1:]
panels = [panel for panel in json.load(open(dashboard))["panels"] if "targets" in panel]
queries = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
missing, deadline = queries, time.time() + 90

def has_data(expr):
    for name, value in {"$job": "lance", "$node": ".*", "$__rate_interval": "10s"}.items():
        expr = expr.replace(name, value)
    query = urllib.parse.urlencode({"query": expr})
    result = json.load(urllib.request.urlopen(f"{prometheus}/api/v1/query?{query}"))["data"]["result"]
    return any(series["value"][1] != "NaN" for series in result)

while missing and time.time() < deadline:
    time.sleep(2)
    try:
        missing = [(title, expr) for title, expr in missing if not has_data(expr)]
    except OSError as error:
        print(error, file=sys.stderr)
for title, expr in missing:
    print(f"no data: {title}: {expr}", file=sys.stderr)
print(f"{len(queries) - len(missing)} of {len(queries)} queries of {len(panels)} panels return data")
sys.exit(bool(missing))
PYTHON

echo "rolling restart, under load"
deploy/rolling-restart.sh local 1="$work/node-1" 2="$work/node-2" 3="$work/node-3"
touch "$work/stop"
wait "$stream" || { echo "the stream failed: $(<"$work/stream")" >&2; exit 1; }
wait "$calls"
read -r made failed <"$work/calls"
sent=$(<"$work/sent")
stored=$("$LNC" consume --topic load --offset earliest -e | wc -l)
stored_calls=$("$LNC" consume --topic calls --offset earliest -e | wc -l)
echo "calls: $made made, $failed failed, $stored_calls stored; stream: $sent sent, $stored stored"
[[ $failed == 0 && $stored == "$sent" && $stored_calls == "$made" ]] || { cat "$work/failures" >&2; exit 1; }
