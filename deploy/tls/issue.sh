#!/bin/sh
# A small certificate authority for a fleet: mutual TLS between coordinators, agents and clients.
#
#   deploy/tls/issue.sh DIR                     make the CA (DIR/ca.pem, DIR/ca.key), once
#   deploy/tls/issue.sh DIR NAME [HOST...]      issue DIR/NAME.pem and DIR/NAME.key, for server and client use
#   deploy/tls/issue.sh DIR --token             make DIR/token, what clients send besides
#   deploy/tls/issue.sh DIR --agent-token NAME  print the token of one agent, made of DIR/token-agent or else DIR/token
#
# HOST are the names and addresses NAME is reached at; 127.0.0.1 and localhost if none is given. Keys are readable
# by their owner alone. Whoever holds ca.key can join the fleet: keep it off the machines that run it.
set -eu

fail() { echo "issue.sh: $1" >&2; exit 2; }

[ $# -ge 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
command -v openssl >/dev/null || fail "openssl is not installed"
dir=$1; shift
umask 077
mkdir -p "$dir"

make_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

if [ ! -e "$dir/ca.key" ]; then
  make_key "$dir/ca.key"
  openssl req -x509 -new -sha256 -key "$dir/ca.key" -days 3650 -subj "/CN=bpfleet CA" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -out "$dir/ca.pem"
fi
[ $# -ge 1 ] || exit 0

name=$1; shift
if [ "$name" = --token ]; then
  [ -e "$dir/token" ] || openssl rand -hex 32 > "$dir/token"
  exit 0
fi
if [ "$name" = --agent-token ]; then
  [ $# -eq 1 ] || fail "name the agent"
  secret=$dir/token-agent
  [ -e "$secret" ] || secret=$dir/token
  [ -e "$secret" ] || fail "$dir holds no token; make one with --token"
  printf 'agent.%s.' "$1"
  printf 'bpfleet agent %s' "$1" | openssl dgst -sha256 -hmac "$(cat "$secret")" -r | cut -d' ' -f1
  exit 0
fi
case $name in
  *[!A-Za-z0-9.-]* | -* | ca) fail "$name is not a name; use letters, digits, '.' and '-', not 'ca'" ;;
esac

[ $# -ge 1 ] || set -- 127.0.0.1 localhost
sans=
for host; do
  case $host in
    *[!0-9.]*) case $host in *:*) kind=IP ;; *) kind=DNS ;; esac ;;
    *) kind=IP ;;
  esac
  sans=${sans:+$sans,}$kind:$host
done

make_key "$dir/$name.key"
extensions=$(mktemp)
trap 'rm -f "$extensions" "$dir/$name.csr"' EXIT
cat > "$extensions" <<END
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth,clientAuth
subjectAltName=$sans
END
openssl req -new -sha256 -key "$dir/$name.key" -subj "/CN=$name" -out "$dir/$name.csr"
openssl x509 -req -sha256 -in "$dir/$name.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -CAcreateserial \
  -days 825 -extfile "$extensions" -out "$dir/$name.pem" 2>/dev/null
echo "$dir/$name.pem"
