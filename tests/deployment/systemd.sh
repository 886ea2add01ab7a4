#!/usr/bin/env bash
# Runs the units under a systemd of their own, in namespaces of their own, with the Redis of deploy/redis. Restarts, kills and stops the
# agent while servers run, and has a server that is taken over try what it can. Wants root and a writable cgroup2; exits with 77 where
# that is not to be had.
#
# usage: systemd.sh DEPLOY HATCHERY TS3D-SC-SIM
set -euo pipefail
deploy=$1
beside=$(dirname "$0")
. "$beside/sample-redis.sh"
[ "$(id -u)" -eq 0 ] || { echo "not root"; exit 77; }
[ -x /lib/systemd/systemd ] || { echo "no systemd"; exit 77; }
group=$(findmnt -n -t cgroup2 -o TARGET | head -n 1)
[ -n "$group" ] || { echo "no cgroup2"; exit 77; }
group=$group/hatchery-test-$$
mkdir "$group" 2>/dev/null || { echo "the cgroup2 is not to be written to"; exit 77; }

# Not below /tmp: the front door has one of its own.
dir=$(mktemp -d -p /var/lib hatchery-test.XXXXXX)
chmod 755 "$dir"
state=hatchery-test-$$
manager='' redis='' left_in_tmp=''
tidy() {
    if [ -n "$manager" ]; then kill -KILL "$manager" 2>/dev/null || true; fi
    if [ -n "$redis" ]; then kill "$redis" 2>/dev/null || true; fi
    wait 2>/dev/null || true
    # The manager was the first process of its namespace: with it everything in there ends.
    for _ in $(seq 50); do
        find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null || true
        [ -d "$group" ] || break
        sleep 0.1
    done
    rm -rf "$dir" "/var/lib/$state" "/var/lib/private/$state" ${left_in_tmp:+"$left_in_tmp"}
}
trap tidy EXIT

read -r registry http admin grpc agent_admin liveliness intruder_grpc intruder_admin intruder_liveliness first \
    <<<"$(python3 "$beside/ports.py" 9 100)"
install -m 755 "$2" "$dir/hatchery"
install -m 755 "$3" "$dir/ts3d-sc-sim"
# As README.md says: secrets are of the role's user alone, the licence is of the group of all servers.
users=$((2000000 + $$ % 100000 * 8)) licensed=$((3000000 + $$ % 100000))
sample_redis "$deploy" "$dir/hatchery" "$dir" "$registry" --frontdoor door=127.0.0.1,localhost --agent n=127.0.0.1 || exit 1
chmod 755 "$dir/certs"
chmod 644 "$dir/certs"/*.pem
chown nobody: "$dir/frontdoor-redis-password" "$dir/certs/door.key"
echo key >"$dir/license"
chown "root:$licensed" "$dir/license" && chmod 640 "$dir/license"
mkdir "$dir/units"
tls() { printf 'HATCHERY_TLS_%s\n' "CERT=$dir/certs/$1.pem" "KEY=$dir/certs/$1.key" "CLIENT_CA=$dir/certs/ca.pem"; }
(umask 077 && tls door >"$dir/frontdoor.env" && tls n >"$dir/agent.env")
cat >>"$dir/frontdoor.env" <<EOF
HATCHERY_REGISTRY=rediss://frontdoor@127.0.0.1:$registry?ca=$dir/certs/ca.pem
HATCHERY_REGISTRY_PASSWORD_FILE=$dir/frontdoor-redis-password
HATCHERY_LISTEN=127.0.0.1:$http
HATCHERY_ADMIN_LISTEN=127.0.0.1:$admin
EOF
cat >>"$dir/agent.env" <<EOF
HATCHERY_REGISTRY=rediss://agent@127.0.0.1:$registry?ca=$dir/certs/ca.pem
HATCHERY_REGISTRY_PASSWORD_FILE=$dir/agent-redis-password
HATCHERY_NODE=n
HATCHERY_LISTEN=127.0.0.1:$grpc
HATCHERY_ADMIN_LISTEN=127.0.0.1:$agent_admin
HATCHERY_LIVELINESS_LISTEN=127.0.0.1:$liveliness
HATCHERY_EXECUTABLE=$dir/ts3d-sc-sim
HATCHERY_LICENSE_FILE=$dir/license
HATCHERY_SLOTS=8
HATCHERY_SPAWN_USER=$users-$((users + 7)):$licensed
HATCHERY_PORTS=$first-$((first + 99))
HATCHERY_INITIAL_USE=10m
EOF
# The units as they are, but for paths, the user, and what they order themselves after.
here() {
    sed -e "s#/usr/local/bin/hatchery#$dir/hatchery#; s#/etc/hatchery/#$dir/#; s#%S/hatchery#%S/$state#" \
        -e "s#^StateDirectory=.*#StateDirectory=$state#; s#^User=hatchery.*#User=nobody#; s#^Group=hatchery.*#Group=nogroup#" \
        -e "s#^\[Unit\]#[Unit]\nDefaultDependencies=no#; /network-online/d" "$1"
}
for role in frontdoor agent; do
    here "$deploy/systemd/hatchery-$role.service" >"$dir/units/hatchery-$role.service"
done
# With a journal, where systemd brings one: it is kept in memory.
journal=''
if [ -x /lib/systemd/systemd-journald ] && command -v journalctl >/dev/null; then
    journal=systemd-journald.service
    cp /lib/systemd/system/systemd-journald.{service,socket} "$dir/units"
    sed -i 's/^Sockets=.*/Sockets=systemd-journald.socket/' "$dir/units/systemd-journald.service"
fi
printf '[Unit]\nDefaultDependencies=no\nWants=%s hatchery-agent.service hatchery-frontdoor.service\n' "$journal" >"$dir/units/farm.target"
cat >"$dir/boot" <<EOF
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t proc proc /proc
# It is a guest here: nothing of the machine is its own to set.
for place in /etc /usr /proc/sys; do
    mount --bind \$place \$place
    mount -o remount,bind,ro \$place
done
exec env -i PATH="$PATH" container=lxc SYSTEMD_UNIT_PATH="$dir/units" \
    /lib/systemd/systemd --system --unit=farm.target --log-target=console --show-status=no
EOF

unshare --mount --pid --cgroup --ipc --uts --fork --kill-child sh -c "echo 0 >$group/cgroup.procs; exec unshare --cgroup sh $dir/boot" \
    >"$dir/log" 2>&1 &
manager=$!

fail() {
    inside systemctl status --no-pager --lines=0 hatchery-agent hatchery-frontdoor || true
    farm nodes || true
    farm spawns --state exited || true
    echo "$*"
    tail -n 40 "$dir/log"
    exit 1
}
within() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || return 1
        sleep 0.1
    done
}
inside() { nsenter -t "$(pgrep -P "$manager" | head -n 1)" -m -p -C "$@"; }
export HATCHERY_SERVER=https://127.0.0.1:$http HATCHERY_CA=$dir/certs/ca.pem
farm() { "$dir/hatchery" "$@"; }
ready() { [ "$(farm --json spawns --state ready | grep -o '"state":"ready"' | wc -l)" = "$1" ]; }
servers() { [ "$(inside pgrep -c -f "^$dir/ts3d-sc-sim" || true)" = "$1" ]; }
up() { farm --json nodes n | grep -q '"availability":"up"'; }
adopted() { python3 -c "import urllib.request as u; print(u.urlopen('http://127.0.0.1:$agent_admin/metrics').read().decode())" | grep -q "adopted_total $1\$"; }

within 15 inside systemctl is-active --quiet hatchery-agent hatchery-frontdoor || {
    # Whether it is the place or the units that is not as it should be.
    inside true 2>/dev/null && fail "the units do not start"
    echo "no systemd can be run here: $(tail -n 1 "$dir/log")"
    exit 77
}
within 10 up || fail "the node did not come up"
status() { [ "$(inside systemctl show -P StatusText "hatchery-$1")" = "$2" ]; }
within 15 status frontdoor ready || fail "the front door does not say that it is ready"
within 15 status agent "eligible, 0 of 8 slots in use" || fail "the agent does not say how it is"
[ "$(inside systemctl show -P WatchdogUSec hatchery-agent)" = 30s ] || fail "there is no watchdog"
farm spawn >/dev/null || fail "nothing can be spawned under the unit's restrictions"
farm spawn >/dev/null

# The journal finds what was logged by its fields and by how bad it is.
if [ -n "$journal" ]; then
    id=$(farm --json spawns --state ready | grep -o '"id":"[^"]*"' | head -n 1 | cut -d'"' -f4)
    logged() { inside journalctl --quiet --no-pager -o cat -D /run/log/journal "$@"; }
    has() { logged "${@:2}" | grep -q "$1"; }
    within 10 has "spawn.id=$id" -u hatchery-agent "HATCHERY_SPAWN_ID=$id" || fail "the journal does not know the spawn: $(logged -n 20)"
    within 10 has "agent started" -u hatchery-agent -p info || fail "the journal has no start of the agent"
    ! has "agent started" -u hatchery-agent -p warning || fail "the journal takes everything for a warning"
fi

# Each is another number, and of one group.
owners() { inside sh -c "for pid in \$(pgrep -f '^$dir/ts3d-sc-sim' | tr '\n' ' '); do stat -c %u:%g /proc/\$pid; done" | sort; }
[ "$(owners)" = "$users:$licensed
$((users + 1)):$licensed" ] || fail "the servers run as $(owners)"
inside systemctl restart hatchery-agent || fail "the restart failed"
within 10 adopted 2 || fail "a restarted agent did not take over"
inside systemctl kill --signal=KILL --kill-whom=main hatchery-agent
within 10 adopted 2 || fail "an agent started after a kill did not take over"
ready 2 || fail "spawns did not survive: $(farm spawns)"

# An agent that is stuck is killed and started again, and its servers go on. A shorter watchdog, so that this takes no half minute.
mkdir "$dir/units/hatchery-agent.service.d"
printf '[Service]\nWatchdogSec=2s\n' >"$dir/units/hatchery-agent.service.d/watchdog.conf"
inside systemctl daemon-reload
inside systemctl restart hatchery-agent || fail "the restart failed"
within 10 adopted 2 || fail "a restarted agent did not take over"
stuck=$(inside systemctl show -P MainPID hatchery-agent)
inside systemctl kill --signal=STOP --kill-whom=main hatchery-agent
replaced() { local now; now=$(inside systemctl show -P MainPID hatchery-agent) && [ "$now" != 0 ] && [ "$now" != "$stuck" ]; }
within 15 replaced || fail "the watchdog left a stuck agent alone"
within 10 adopted 2 || fail "an agent started by the watchdog did not take over"
within 10 ready 2 || fail "spawns did not survive the watchdog: $(farm spawns)"
rm -r "$dir/units/hatchery-agent.service.d"
inside systemctl daemon-reload
inside systemctl restart hatchery-agent || fail "the restart failed"

inside systemctl stop hatchery-agent
servers 2 || fail "servers did not survive the stop of their agent"
inside systemctl kill --kill-whom=all hatchery-agent
within 10 servers 0 || fail "what a stopped agent left cannot be ended through its unit"

mkdir "$dir/units/hatchery-agent.service.d"
here "$deploy/systemd/drop-ins/stop-for-good.conf" >"$dir/units/hatchery-agent.service.d/stop-for-good.conf"
inside systemctl daemon-reload
inside systemctl start hatchery-agent
within 10 up
within 10 farm spawn || fail "nothing can be spawned after a start"
servers 1 || fail "there should be one server"
inside systemctl stop hatchery-agent
servers 0 || fail "stop-for-good leaves servers"
within 10 sh -c "$dir/hatchery --json spawns | grep -q '\"reason\":\"drained\"'" ||
    fail "stop-for-good does not say that it ended the spawn"

rm "$dir/units/hatchery-agent.service.d/stop-for-good.conf"
inside systemctl daemon-reload

# --- a server that is taken over ---------------------------------------------------------------------------------------------

install -m 755 "$beside/taken-over.py" "$dir/server"
sed -i "s#^HATCHERY_EXECUTABLE=.*#HATCHERY_EXECUTABLE=$dir/server#" "$dir/agent.env"
# Starts the agent and a server; then, with its targets, a second one. Sets `attempts` to what that one wrote.
attacked() {
    rm -f "$dir/targets.json"
    inside systemctl start hatchery-agent || fail "the agent does not start"
    within 10 up || fail "the node did not come up"
    within 10 farm spawn || fail "nothing can be spawned"
    local agent victim pid id ca=$dir/certs/ca.pem
    agent=$(inside systemctl show -P MainPID hatchery-agent)
    victim=$(farm --json spawns --state ready | grep -o '"id":"[^"]*"' | head -n 1 | cut -d'"' -f4)
    pid=$(inside pgrep -f "^$dir/ts3d-sc-sim")
    inside grep -q ' /proc proc .*hidepid=' "/proc/$agent/mounts" || {
        echo "systemd cannot hide processes here (ProtectProc=): what servers see of each other is not to be tried"
        exit 77
    }
    cat >"$dir/targets.json" <<EOF
{"victim": "$victim", "victim_pid": $pid, "victim_uid": $(inside stat -c %u "/proc/$pid"), "agent_pid": $agent,
 "victim_output": "/var/lib/$state/logs/$victim.log", "state": "/var/lib/$state",
 "secrets": {"agent.env": "$dir/agent.env", "agent-redis-password": "$dir/agent-redis-password",
   "frontdoor-redis-password": "$dir/frontdoor-redis-password", "n.key": "$dir/certs/n.key", "door.key": "$dir/certs/door.key"},
 "redis": $registry, "registry": "rediss://agent@127.0.0.1:$registry?ca=$ca", "ca": "$ca", "grpc": $grpc,
 "intruder": {"grpc": "127.0.0.1:$intruder_grpc", "admin": "127.0.0.1:$intruder_admin",
   "liveliness": "127.0.0.1:$intruder_liveliness", "ports": "$((first + 100))-$((first + 120))"}}
EOF
    id=$(farm --json spawn | grep -o '"id":"[^"]*"' | cut -d'"' -f4) || fail "the server that is taken over does not become ready"
    attempts=$(grep '^# attempt' "/var/lib/$state/logs/$id.log")
    grep -q '^# attempts: done' <<<"$attempts" || fail "it did not try everything: $attempts"
    ready 2 || fail "both should go on: $(farm spawns)"
    [ "$(inside systemctl show -P MainPID hatchery-agent)" = "$agent" ] || fail "it is not the same agent"
}
worked() { sed -n 's/^# attempt: \(.*\): worked$/\1/p' <<<"$attempts" | sort; }
end_all() {
    farm --json spawns --state ready | grep -o '"id":"[^"]*"' | cut -d'"' -f4 | while read -r id; do farm stop "$id" >/dev/null; done
    within 10 servers 0 || fail "servers cannot be ended"
}

attacked
[ "$(worked | grep -c '^own ')" = "$(grep -c '^# attempt: own ' <<<"$attempts")" ] || fail "what must work did not: $attempts"
[ "$(worked | grep -vc '^own ')" = 0 ] || fail "a server that is taken over could reach: $(worked | grep -v '^own ')"
[ "$(grep -vc '^# attempt: own ' <<<"$attempts")" -gt 25 ] || fail "it tried little: $attempts"
[ "$(farm nodes -q)" = n ] || fail "there are other nodes: $(farm nodes)"
# What a server leaves to the next one with its number is deleted, where only capabilities reach it too.
rm "$dir/targets.json"
end_all
left_in_tmp=$(mktemp -d /tmp/hatchery-test.XXXXXX)
mkdir -p "$left_in_tmp/inner/sticky" && touch "$left_in_tmp/inner/sticky/file"
chmod 1700 "$left_in_tmp/inner/sticky" && chmod 700 "$left_in_tmp/inner"
chown -R "$users:$licensed" "$left_in_tmp"
for _ in $(seq 8); do farm spawn >/dev/null || fail "not all numbers can be used again"; done
[ ! -e "$left_in_tmp" ] || fail "what an ended server left is there still: $(find "$left_in_tmp")"
end_all
inside systemctl stop hatchery-agent

# The same where servers are not strangers: what it tries is no bluff, and the drop-in does what it says.
here "$deploy/systemd/drop-ins/no-spawn-user.conf" >"$dir/units/hatchery-agent.service.d/no-spawn-user.conf"
chown nobody "$dir/agent-redis-password" "$dir/certs/n.key" "$dir/license"
inside systemctl daemon-reload
attacked
for name in "another spawn's environ" "another spawn, signalled" "another spawn's output" "the agent's environ" "the agent, signalled" \
    agent-redis-password n.key "the state directory's records" "the state directory, changed" "an agent of its own"; do
    worked | grep -qx "$name" || fail "the attempt is a bluff: $name: $attempts"
done
# As of an agent of an earlier release, whose servers are taken over, and whose state directory becomes root's.
rm "$dir/units/hatchery-agent.service.d/no-spawn-user.conf" "$dir/targets.json"
inside systemctl daemon-reload
inside systemctl restart hatchery-agent
within 10 adopted 2 || fail "servers of the agent's former user are not taken over"
within 10 ready 2 || fail "they do not go on: $(farm spawns)"
within 20 farm spawn || fail "nothing can be spawned beside them: $(farm spawn 2>&1)"
[ "$(owners | sort -u | wc -l)" = 2 ] || fail "the servers run as $(owners)"
end_all
inside systemctl stop hatchery-agent

inside systemctl stop hatchery-frontdoor
[ "$(inside systemctl show -P Result hatchery-frontdoor)" = success ] || fail "the front door does not end well"
