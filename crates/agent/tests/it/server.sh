#!/bin/bash
# Stands in for the stream cache server: takes its command line, then does what the session token says.
while (($#)); do
  case $1 in
    --*=*) name=${1%%=*} value=${1#*=}; shift ;;
    *) name=$1 value=$2; shift 2 ;;
  esac
  case $name in
    --id) id=$value ;;
    --sc-port) port=$value ;;
    --liveliness-endpoint) base=${value#http://} ;;
    --session-token) script=$value ;;
  esac
done

# Reports what its argument says.
say() {
  local address=${base%%/*}
  exec 3<>"/dev/tcp/${address%:*}/${address##*:}"
  printf 'POST /%s/%s?liveliness=%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n' \
    "${base#*/}" "$id" "$1" >&3
  read -r -t 5 status <&3
  exec 3>&-
}

# Whether the test still runs.
alive() { kill -0 "$PPID" 2>/dev/null; }

# Does nothing, as long as the test runs.
rest() { while alive; do sleep 0.2; done; exit 99; }

eval "$script"
