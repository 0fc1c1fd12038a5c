#!/bin/sh
# Check the pending requests of one kubelet for a serving certificate, and approve them.
#
#   sh approve-kubelet-serving.sh NODE ADDRESS...
#
# NODE is the name of the node, which each kubelet asks for. ADDRESS... are its IP addresses and other
# host names, from your own inventory: what `kubectl get nodes` shows comes from the kubelet itself.
# Write IPv6 addresses as openssl prints them. Nothing is approved that names anything else. It needs
# kubectl and openssl.
set -euf

if [ "$#" -lt 2 ]; then
  echo "usage: sh $0 NODE ADDRESS..." >&2
  exit 2
fi
node=$1
shift
user="system:node:$node"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

refuse() {
  echo "$name is not approved: $1" >&2
  exit 1
}

# The dot keeps line ends at the end of a value, which the shell would drop.
field() {
  kubectl get certificatesigningrequests "$name" -o "jsonpath={$1}."
}

is_given() {
  value=$1
  shift
  for address in "$@"; do
    if [ "$value" = "$address" ]; then return 0; fi
  done
  return 1
}

# Exit with 1 unless everything that the request "$name" asks for is among the given addresses.
examine() {
  field .spec.request | sed 's/\.$//' | base64 -d >"$work/request.pem"
  subject=$(openssl req -in "$work/request.pem" -noout -subject -nameopt RFC2253)
  if [ "$subject" != "subject=CN=$user,O=system:nodes" ]; then refuse "its $subject"; fi

  openssl req -in "$work/request.pem" -noout -text >"$work/text"
  if [ "$(grep -c 'Subject Alternative Name:' "$work/text")" != 1 ] ||
    [ "$(grep -c 'Signature Algorithm:' "$work/text")" != 1 ]; then
    refuse "its subject alternative names cannot be read"
  fi
  sed -n '/Subject Alternative Name:/,/Signature Algorithm:/p' "$work/text" |
    sed '1d;$d' >"$work/names"
  # A name with a line end in it, or another extension, would be a second line.
  if [ "$(wc -l <"$work/names")" -ne 1 ]; then refuse "it asks for more than names"; fi

  sed 's/IP Address:/IP:/g' "$work/names" | tr ',' '\n' | sed 's/^ *//' >"$work/each"
  while IFS= read -r entry; do
    case "$entry" in
      DNS:* | IP:*)
        is_given "${entry#*:}" "$@" || refuse "it asks for $entry, which is not given"
        ;;
      *) refuse "it asks for $entry" ;;
    esac
  done <"$work/each"
}

approved=0
refused=0
for name in $(kubectl get certificatesigningrequests -o 'jsonpath={.items[*].metadata.name}'); do
  if [ "$(field .spec.username)" != "$user." ]; then continue; fi
  if [ "$(field '.status.conditions[*].type')" != . ]; then continue; fi # approved or denied
  case "$(field .spec.signerName)" in
    . | kubernetes.io/kubelet-serving.) ;; # before v1.18 there is none
    *) continue ;;
  esac
  case "$(field '.spec.usages[*]')" in
    *"server auth"*) ;;
    *) continue ;;
  esac

  # In a condition, `set -e` would not hold.
  set +e
  (
    set -e
    examine "$node" "$@"
  )
  status=$?
  set -e
  if [ "$status" = 0 ]; then
    kubectl certificate approve "$name"
    approved=$((approved + 1))
  else
    refused=$((refused + 1))
  fi
done

if [ "$approved" = 0 ] && [ "$refused" = 0 ]; then
  echo "there is no pending request of $user for a serving certificate" >&2
fi
if [ "$approved" = 0 ] || [ "$refused" != 0 ]; then exit 1; fi
