#!/bin/sh
# The secrets of deploy/swarm/stack.yml: keys and certificates for mutual TLS, tokens, the password of Redis.
#
#   deploy/swarm/secrets.sh create DIR [PREFIX]     make what DIR lacks, hand it to the swarm as PREFIX-ca, ...
#   deploy/swarm/secrets.sh remove [PREFIX]         take them out of the swarm; DIR stays
#
# PREFIX is bpfleet unless given; with another one a new set stands beside the old until the stack has moved over
# (BPFLEET_SECRETS=PREFIX docker stack deploy ...). DIR/ca.key can make members of the fleet: it is not in the swarm, and
# no machine that runs the fleet needs it.
set -eu

usage() { sed -n '4,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }

here=$(dirname "$0")
parties="redis coordinator agent client"
roles="operator user agent"

issue() { # NAME [HOST...]
  [ -e "$1.pem" ] || "$tls" . "$@"
}

make_missing() {
  issue redis redis 127.0.0.1
  issue coordinator coordinator '*.coordinator.bpfleet' 127.0.0.1
  issue agent '*.agent.bpfleet' 127.0.0.1
  issue client client
  for role in $roles; do [ -e "token-$role" ] || (umask 077; openssl rand -hex 32 > "token-$role"); done
  [ -e redis-password ] || (umask 077; openssl rand -hex 24 > redis-password)
}

case ${1:-} in
  create)
    [ $# -ge 2 ] && [ $# -le 3 ] || usage
    tls=$(cd "$here/../tls" && pwd)/issue.sh
    prefix=${3:-bpfleet}
    mkdir -p "$2"
    cd "$2"
    make_missing
    docker secret create "$prefix-ca" ca.pem
    for role in $roles; do docker secret create "$prefix-$role-token" "token-$role"; done
    docker secret create "$prefix-redis-password" redis-password
    for name in $parties; do
      docker secret create "$prefix-$name-cert" "$name.pem"
      docker secret create "$prefix-$name-key" "$name.key"
    done
    ;;
  remove)
    [ $# -le 2 ] || usage
    prefix=${2:-bpfleet}
    set -- "$prefix-ca" "$prefix-redis-password"
    for role in $roles; do set -- "$@" "$prefix-$role-token"; done
    for name in $parties; do set -- "$@" "$prefix-$name-cert" "$prefix-$name-key"; done
    docker secret rm "$@"
    ;;
  *) usage ;;
esac
