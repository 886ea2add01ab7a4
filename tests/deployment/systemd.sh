#!/usr/bin/env bash
# Runs the units under a systemd of their own, in namespaces of their own, and restarts, kills and stops the agent while servers
# run. Wants root and a writable cgroup2; exits with 77 where that is not to be had.
#
# usage: systemd.sh DEPLOY HATCHERY TS3D-SC-SIM
set -euo pipefail
deploy=$1
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
manager='' redis=''
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
    rm -rf "$dir" "/var/lib/$state" "/var/lib/private/$state"
}
trap tidy EXIT

free() { python3 -c 'import socket; s = [socket.create_server(("127.0.0.1", 0)) for _ in range(int("'"$1"'"))]; print(*[x.getsockname()[1] for x in s])'; }
read -r registry http admin grpc agent_admin liveliness first <<<"$(free 7)"
install -m 755 "$2" "$dir/hatchery"
install -m 755 "$3" "$dir/ts3d-sc-sim"
echo key >"$dir/license"
mkdir "$dir/units"
cat >"$dir/frontdoor.env" <<EOF
HATCHERY_REGISTRY=redis://127.0.0.1:$registry
HATCHERY_LISTEN=127.0.0.1:$http
HATCHERY_ADMIN_LISTEN=127.0.0.1:$admin
EOF
cat >"$dir/agent.env" <<EOF
HATCHERY_REGISTRY=redis://127.0.0.1:$registry
HATCHERY_NODE=n
HATCHERY_LISTEN=127.0.0.1:$grpc
HATCHERY_ADMIN_LISTEN=127.0.0.1:$agent_admin
HATCHERY_LIVELINESS_LISTEN=127.0.0.1:$liveliness
HATCHERY_EXECUTABLE=$dir/ts3d-sc-sim
HATCHERY_LICENSE_FILE=$dir/license
HATCHERY_SLOTS=8
HATCHERY_PORTS=$first-$((first + 99))
HATCHERY_INITIAL_USE=10m
EOF
# The units as they are, but for paths, the user, and what they order themselves after.
here() {
    sed -e "s#/usr/local/bin/hatchery#$dir/hatchery#; s#/etc/hatchery/#$dir/#; s#%S/hatchery#%S/$state#" \
        -e "s#^StateDirectory=.*#StateDirectory=$state#; s#^User=.*#User=nobody#; s#^Group=.*#Group=nogroup#" \
        -e "s#^\[Unit\]#[Unit]\nDefaultDependencies=no#; /network-online/d" "$1"
}
for role in frontdoor agent; do
    here "$deploy/systemd/hatchery-$role.service" >"$dir/units/hatchery-$role.service"
done
printf '[Unit]\nDefaultDependencies=no\nWants=hatchery-agent.service hatchery-frontdoor.service\n' >"$dir/units/farm.target"
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

redis-server --port "$registry" --save '' --dir "$dir" >/dev/null &
redis=$!
unshare --mount --pid --cgroup --ipc --uts --fork --kill-child sh -c "echo 0 >$group/cgroup.procs; exec unshare --cgroup sh $dir/boot" \
    >"$dir/log" 2>&1 &
manager=$!

fail() {
    inside systemctl status --no-pager --lines=0 hatchery-agent hatchery-frontdoor || true
    farm nodes || true
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
farm() { "$dir/hatchery" --server "http://127.0.0.1:$http" "$@"; }
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
farm spawn >/dev/null || fail "nothing can be spawned under the unit's restrictions"
farm spawn >/dev/null

inside systemctl restart hatchery-agent || fail "the restart failed"
within 10 adopted 2 || fail "a restarted agent did not take over"
inside systemctl kill --signal=KILL --kill-whom=main hatchery-agent
within 10 adopted 2 || fail "an agent started after a kill did not take over"
ready 2 || fail "spawns did not survive: $(farm spawns)"

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
within 10 sh -c "$dir/hatchery --server http://127.0.0.1:$http --json spawns | grep -q '\"reason\":\"drained\"'" ||
    fail "stop-for-good does not say that it ended the spawn"

# Servers of another user, under an agent that is root but for what the drop-in leaves it: it can start, see and end them.
rm "$dir/units/hatchery-agent.service.d/stop-for-good.conf"
sed 's#=hoops$#=daemon#' "$deploy/systemd/drop-ins/spawn-user.conf" >"$dir/units/hatchery-agent.service.d/spawn-user.conf"
inside systemctl daemon-reload
inside systemctl start hatchery-agent
within 10 up
within 10 farm spawn || fail "nothing can be spawned as another user"
owner() { inside sh -c "stat -c %U /proc/\$(pgrep -f '^$dir/ts3d-sc-sim')"; }
[ "$(owner)" = daemon ] || fail "the server runs as $(owner)"
inside systemctl restart hatchery-agent
within 10 adopted 1 || fail "a server of another user is not taken over"
within 10 ready 1 || fail "the server of another user did not survive: $(farm spawns)"
farm stop "$(farm --json spawns --state ready | grep -o '"id":"[^"]*"' | head -n 1 | cut -d'"' -f4)" >/dev/null
within 10 servers 0 || fail "a server of another user cannot be ended"

inside systemctl stop hatchery-frontdoor
[ "$(inside systemctl show -P Result hatchery-frontdoor)" = success ] || fail "the front door does not end well"
