#!/bin/sh
# The Secrets that the TLS component mounts: a certificate and key for each role, and the tokens.
#
#   deploy/kubernetes/components/tls/secrets.sh DIR [--tokens-only]
#
# DIR is made, or completed; DIR/ca.key can make members of the fleet, so keep it elsewhere. With cert-manager, which
# makes the certificates, --tokens-only.
set -eu

[ $# -ge 1 ] && [ $# -le 2 ] || { sed -n '4p' "$0" >&2; exit 2; }
issue=$(cd "$(dirname "$0")/../../../tls" && pwd)/issue.sh
umask 077
mkdir -p "$1"
cd "$1"

put() { # NAME FILE...
  name=$1; shift
  kubectl -n bpfleet create secret generic "$name" "$@" --dry-run=client -o yaml | kubectl apply -f -
}

role() { # NAME HOST...
  [ -e "$1.pem" ] || "$issue" . "$@"
  put "$1-tls" --from-file=ca.crt=ca.pem --from-file=tls.crt="$1.pem" --from-file=tls.key="$1.key"
}

if [ "${2:-}" != --tokens-only ]; then
  role redis redis.bpfleet.svc 127.0.0.1
  role coordinator '*.coordinator.bpfleet.svc' 127.0.0.1
  role agent '*.agent.bpfleet.svc' 127.0.0.1
  role client client
fi
for name in operator user agent; do [ -e "token-$name" ] || openssl rand -hex 32 > "token-$name"; done
put bpfleet-tokens --from-file=operator=token-operator --from-file=user=token-user --from-file=agent=token-agent
