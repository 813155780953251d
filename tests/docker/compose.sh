#!/usr/bin/env bash
# Whole runs by `docker compose`, for real, with everything that is promised of them: images, eight
# workers, a second `up`, a killed worker, other numbers of workers and a broker restarted three times in
# the middle of a run, Prometheus, signals, exit codes. Each report is checked.
#
#   tests/docker/compose.sh
#   tests/docker/compose.sh | tee docs/benchmarks/DATE/compose.txt
#
# Needs a Docker engine with compose and buildx, curl and jq. Without an engine it says that it is
# skipped. It uses a project, an output folder and a port of its own, and removes what it has started.
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() { echo "SKIPPED tests/docker/compose.sh: $*"; exit 0; }
command -v docker >/dev/null || skip "there is no docker command here"
docker info >/dev/null 2>&1 || skip "no Docker engine answers here"
docker compose version >/dev/null 2>&1 || skip "docker has no compose plugin here"

say() { printf '[%4ds] %s\n' "$SECONDS" "$*"; }
die() { say "FAILED: $*"; exit 1; }
for tool in curl jq; do command -v "$tool" >/dev/null || die "$tool is missing; install it"; done

work=$(mktemp -d)
export COMPOSE_PROJECT_NAME=rollcall-test-$$ TAG=test OUT=$work/out PROMETHEUS_PORT=0
export ROWS=200000 COUNTRIES=195 SEED=42 RUN_ID='' EVERY=hour WORKERS=8 THREADS=1 PARTITIONS=24
export JOBS_PER_MESSAGE=auto SIMULATE_WORK=0ms TIMEOUT=5m
REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)
export REVISION
report=$OUT/report.json

clean_up() {
    local code=$?
    if ((code)); then
        docker compose logs --tail 20 kafka open-run datagen dispatcher worker aggregator >&2 || true
    fi
    docker compose --profile obs down --volumes --timeout 5 >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap clean_up EXIT
trap 'say "FAILED: line $LINENO: $BASH_COMMAND"' ERR

# wait_for SECONDS WHAT COMMAND…: until the command succeeds.
wait_for() {
    local until=$((SECONDS + $1)) what=$2
    until "${@:3}"; do
        ((SECONDS < until)) || die "waited in vain for $what"
        sleep 0.5
    done
}

# quietly COMMAND…: its output is shown only if it fails.
quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log"; die "$*"; }; }

workers() { docker compose ps --all --quiet --no-trunc worker; }
hosts() { workers | cut -c 1-12; }
exit_codes() { workers | xargs docker inspect --format '{{.State.ExitCode}}' | sort | uniq -c | xargs; }

# metric CONTAINER NAME: its present sum over all labels, as the container tells it; 0 before it does.
metric() {
    docker exec "$1" bash -c "
        exec 3<>/dev/tcp/127.0.0.1/9464
        printf 'GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n' >&3
        cat <&3" 2>/dev/null | awk -v name="$2" '$1 ~ "^" name "([{]|$)" { sum += $2 } END { print sum + 0 }'
}
jobs_collected() { metric "$(docker compose ps --quiet aggregator)" rollcall_aggregator_collected_jobs_total; }
collected() { (($(jobs_collected) >= $1)); }
is_mid_run() { [[ $(docker compose ps --status running --quiet aggregator) ]] || die "the run was over before: $*"; }

# check_report STATUS: the report is of this status, every line of the reconciliation holds.
check_report() {
    jq -e --arg status "$1" --argjson rows "$ROWS" '
        .status == $status and (.reconciliation | length > 5 and all(.holds))
        and .manifest.rows_read == $rows and .tests == $rows' "$report" >/dev/null ||
        { cat "$report"; die "the report is not $1 and reconciled"; }
    say "report: run $(jq -r '.run.run_id' "$report"): $(jq -r .status "$report"), $(jq -r '[.reconciliation[] | select(.holds)] | length' "$report") of $(jq -r '.reconciliation | length' "$report") checks hold, $(jq -r .jobs.counted "$report") jobs, $(jq -r .jobs.duplicates_dropped "$report") duplicates dropped"
}

# check_workers HOST…: the report names each of them, with jobs.
check_workers() {
    local host
    for host; do
        jq -e --arg host "$host" '[.workers[] | select(.host == $host and .jobs > 0)] | length > 0' \
            "$report" >/dev/null || { jq .workers "$report"; die "worker $host is not in the report"; }
    done
    say "report: names all of $# worker containers"
    jq -r '.workers[] | "          \(.host)  \(.id)  \(.jobs) jobs"' "$report"
}

say "rollcall $(git describe --always --dirty 2>/dev/null || echo '?'), $(docker version --format 'Docker {{.Server.Version}}'), compose $(docker compose version --short), $(nproc) cores, load $(cut -d' ' -f1 /proc/loadavg)"

# --- the file ------------------------------------------------------------------------------------------

# of_config CONDITION: it holds in what compose makes of its file.
of_config() { jq -e "$1" "$work/config" >/dev/null || { cat "$work/config"; die "not so in docker-compose.yml: $1"; }; }
docker compose --profile obs config --format json >"$work/config"
of_config '[.services | to_entries[] | select(.value.attach != false) | .key] == ["aggregator"]'
of_config '[.services[] | select(.ports) | .ports[].host_ip] == ["127.0.0.1"] and .services.prometheus.ports != null'
of_config '[.services[] | select(.container_name)] == []'
of_config '[.services | to_entries[] | select(.value.read_only != true) | .key] == ["kafka", "prometheus"]'
say "config: only the aggregator is attached, no service but Prometheus has a port on the host, no container has a fixed name"

# --- the images --------------------------------------------------------------------------------------

quietly docker compose build
base=$(docker image inspect --format '{{.Size}}' debian:bookworm-slim)
for service in datagen dispatcher worker aggregator; do
    image=rollcall/$service:$TAG
    beyond=$((($(docker image inspect --format '{{.Size}}' "$image") - base + 500000) / 1000000))
    user=$(docker image inspect --format '{{.Config.User}}' "$image")
    ((beyond <= 60)) || die "$image has $beyond MB beyond its base image, at most 60 are allowed"
    [[ $user == 10001:10001 ]] || die "$image runs as '$user'"
    docker image inspect --format '{{json .Config.Labels}}' "$image" |
        jq -e --arg revision "$REVISION" '."org.opencontainers.image.title" == "rollcall '"$service"'"
            and ."org.opencontainers.image.revision" == $revision' >/dev/null ||
        die "$image lacks labels"
    say "image: $image, $beyond MB beyond debian:bookworm-slim, user $user"
done
quietly docker run --rm --volume "$PWD/docker/prometheus:/rules:ro" --entrypoint promtool \
    prom/prometheus:"${PROMETHEUS_TAG:-latest}" check config /rules/prometheus.yml
quietly docker run --rm --volume "$PWD/docker/prometheus:/rules:ro" --entrypoint promtool \
    prom/prometheus:"${PROMETHEUS_TAG:-latest}" test rules /rules/rules_test.yml
say "prometheus: its configuration and the tests of its rules are good"

# --- up, and up again --------------------------------------------------------------------------------

up() { docker compose up --exit-code-from aggregator --scale worker=8; }

up >"$work/up" 2>&1 || { code=$?; cat "$work/up"; die "up ended with $code"; }
say "up --scale worker=8: ended with 0 and said"
sed -n 's/^aggregator-1 *| /          /p' "$work/up" | grep -v ' INFO ' || true
check_report complete
mapfile -t eight < <(hosts)
check_workers "${eight[@]}"
((${#eight[@]} == 8)) || die "${#eight[@]} workers, not 8"
[[ $(exit_codes) == "8 0" ]] || die "workers that were asked to end ended with: $(exit_codes)"
say "workers: all eight had SIGTERM as PID 1 and ended with 0"
first=$(jq -r .run.run_id "$report") first_series=$(jq -r .series.sha256 "$report")
[[ $(stat -c %u "$OUT") == "$(stat -c %u docker-compose.yml)" ]] || die "$OUT is $(stat -c %U "$OUT")'s"

up >"$work/up" 2>&1 || { code=$?; cat "$work/up"; die "the second up ended with $code"; }
say "up again: ended with 0"
check_report complete
check_workers "${eight[@]}"
[[ $(jq -r .run.run_id "$report") != "$first" ]] || die "the second up has reported the first run"
[[ $(jq -r .series.sha256 "$report") == "$first_series" ]] || die "the same rows gave another series"
say "the second run is one of its own, with the same series"

# --- faults in the middle of a run ---------------------------------------------------------------------

export SIMULATE_WORK=${FAULTS_WORK:-3ms} COMPOSE_PROFILES=obs
jobs=$(jq -r .jobs.counted "$report")
rm -f "$report"
quietly docker compose up --detach --scale worker=8
wait_for 300 "a twentieth of the jobs" collected $((jobs / 20))
mapfile -t before < <(hosts)
worker=$(docker compose ps --quiet worker | sed -n 1p)
inspect() { docker inspect --format "$1" "$worker"; }
[[ $(inspect '{{.HostConfig.ReadonlyRootfs}}') == true ]] || die "a worker's root file system can be written to"
[[ $(docker exec "$worker" id -u) == 10001 ]] || die "a worker runs as $(docker exec "$worker" id)"
is_healthy() { [[ $(inspect '{{.State.Health.Status}}') == healthy ]]; }
wait_for 180 "a healthy worker" is_healthy

all_scraped() {
    local port; port=$(docker compose port prometheus 9090)
    curl --silent --fail --get "http://$port/api/v1/query" --data-urlencode "query=$1" >"$work/answer" &&
        jq -e "[.data.result[].value[1] | tonumber] | $2" "$work/answer" >/dev/null
}
wait_for 180 "Prometheus to have reached eight workers" all_scraped 'up{job="worker"}' '(length == 8) and all(. == 1)'
wait_for 180 "a recorded rate" all_scraped 'rollcall:jobs:rate1m' '(length == 1) and .[0] > 0'
rate=$(jq -r '.data.result[0].value[1] | tonumber | round' "$work/answer")
three_alerts_are_quiet() {
    curl --silent --fail "http://$(docker compose port prometheus 9090)/api/v1/rules?type=alert" >"$work/answer" &&
        jq -e '[.data.groups[].rules[]] | length == 3 and all(.health == "ok" and .state == "inactive")' \
            "$work/answer" >/dev/null
}
wait_for 60 "three alerts that are quiet" three_alerts_are_quiet
say "prometheus: 8 of 8 workers are up, rollcall:jobs:rate1m is $rate, three alerts are loaded and quiet"

# `docker kill` would tell the engine that the end was wanted, and inside of a container nobody can kill
# PID 1. So its process is killed from a container that sees the host's.
has_done_jobs() { (($(metric "$worker" rollcall_worker_jobs_total) > 0)); }
wait_for 180 "a worker with jobs done" has_done_jobs
killed=$(docker logs "$worker" 2>&1 | sed -n 's/.* worker=//p' | tail -1)
pid=$(inspect '{{.State.Pid}}')
docker run --rm --pid host --user 0 --entrypoint bash "rollcall/worker:$TAG" -c "kill -9 $pid"
has_restarted() { (($(inspect '{{.RestartCount}}') > 0)) && [[ $(inspect '{{.State.Running}}') == true ]]; }
wait_for 60 "the killed worker to be back" has_restarted
is_mid_run "the kill"
say "killed the process of worker $killed on ${worker:0:12} at $(jobs_collected) of $jobs jobs; it was restarted"

quietly docker compose up --detach --scale worker=2
[[ $(workers | wc -l) == 2 ]] || die "not scaled to 2"
is_mid_run "scaling to 2"
at=$(jobs_collected)
wait_for 180 "two workers to go on" collected $((at + jobs / 50))
say "up --scale worker=2: two workers go on at $(jobs_collected) of $jobs jobs"
quietly docker compose up --detach --scale worker=8
mapfile -t after < <(hosts)
((${#after[@]} == 8)) || die "not scaled to 8"
at=$(jobs_collected)
is_mid_run "scaling to 8"
say "up --scale worker=8: eight again at $at of $jobs jobs"

wait_for 180 "eight workers to go on" collected $((at + jobs / 20))

for time in 1 2 3; do
    quietly docker compose restart kafka
    at=$(jobs_collected)
    is_mid_run "restart $time of kafka"
    say "restart kafka, time $time: it is back at $at of $jobs jobs"
    wait_for 180 "workers to go on after restart $time of kafka" collected $((at + jobs / 20))
    say "restart kafka, time $time: workers go on at $(jobs_collected) of $jobs jobs"
done

aggregator=$(docker compose ps --all --quiet aggregator)
ended() { [[ $(docker inspect --format '{{.State.Running}}' "$aggregator") == false ]]; }
wait_for 600 "the aggregator's end" ended
code=$(docker inspect --format '{{.State.ExitCode}}' "$aggregator")
((code == 0)) || die "the aggregator ended with $code"
check_report complete
dispatcher=$(docker inspect --format '{{.State.ExitCode}}' "$(docker compose ps --all --quiet dispatcher)")
((dispatcher == 0)) || die "the dispatcher that up --scale started again has ended with $dispatcher"
mapfile -t all < <(printf '%s\n' "${before[@]}" "${after[@]}" | sort -u)
check_workers "${all[@]}"
jq -e --arg id "$killed" '[.workers[] | select(.id == $id and .jobs > 0)] | length == 1' "$report" >/dev/null ||
    die "the killed process $killed is not in the report"
[[ $(jq -r .series.sha256 "$report") == "$first_series" ]] || die "faults have changed the series"
say "the series is the same as without faults"
asked=$(date +%s%N)
quietly docker compose stop worker
took=$((($(date +%s%N) - asked) / 1000000))
[[ $(exit_codes) == "8 0" ]] || die "workers that were asked to end ended with: $(exit_codes)"
say "stop worker: all eight had SIGTERM as PID 1 and ended with 0, in $took ms together"
quietly docker compose --profile obs down --timeout 10
unset COMPOSE_PROFILES

# --- the exit code -------------------------------------------------------------------------------------

code=0
WORKERS=0 TIMEOUT=30s docker compose up --exit-code-from aggregator >"$work/up" 2>&1 || code=$?
((code == 4)) || { cat "$work/up"; die "up without workers ended with $code, not 4"; }
[[ $(jq -r .status "$report") == incomplete ]] || die "the report is $(jq -r .status "$report")"
say "up without workers: ended with 4, and the report says incomplete"

# --- signals -------------------------------------------------------------------------------------------

# (Not `grep -q`, which ends before it has read all: a command that writes to nobody fails.)
has_logged() { docker compose logs "$1" 2>&1 | grep "$2" >/dev/null; }
exit_code() { docker inspect --format '{{.State.ExitCode}}' "$(docker compose ps --all --quiet "$1")"; }
# `docker compose logs` also has what earlier runs have said, until their containers are gone.
quietly docker compose down --timeout 5

docker compose up --exit-code-from aggregator --scale worker=0 >"$work/up" 2>&1 &
up=$!
wait_for 180 "a dispatcher that waits for workers" has_logged dispatcher 'waiting for workers'
quietly docker compose stop dispatcher
code=0
wait "$up" || code=$?
((code == 1)) || { cat "$work/up"; die "up with a stopped dispatcher ended with $code, not 1"; }
(($(exit_code dispatcher) == 143)) || die "the stopped dispatcher ended with $(exit_code dispatcher), not 143"
say "stop dispatcher: it had SIGTERM as PID 1 and ended with 143, up with 1: $(grep -o 'error: .*' "$work/up")"

quietly docker compose down --timeout 5
quietly docker compose up --detach --scale worker=0
wait_for 180 "an aggregator at work" has_logged aggregator 'serving'
quietly docker compose stop aggregator
(($(exit_code aggregator) == 143)) || die "the stopped aggregator ended with $(exit_code aggregator), not 143"
say "stop aggregator: it had SIGTERM as PID 1 and ended with 143"
say "PASSED"
