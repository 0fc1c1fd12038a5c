# What `kbuild nodes check` asks a node, as functions; node.sh is sent before it. All of it only reads.
#
# A private key, a token or a password never leaves the node: only what is known to be none of these
# is printed. A POSIX shell, coreutils, sed, grep and find are all that is needed.
# $root is before the paths of the node, for tests.
root=${root:-}
max_size=1048576
max_files=5000

encoded() {
  base64 | tr -d '\n'
}

# look PATH...
look() {
  for each in base64 cat find grep head od sed stat tr; do
    command -v "$each" >/dev/null || fail "the program $each is not there"
  done
  files "$@"
  for each in etcd kube-apiserver kube-controller-manager kube-scheduler; do
    manifest "$each"
  done
  kubelet_settings
  processes
  stored
  return 0
}

# --- files ---------------------------------------------------------------------------------------

# Print each file below the paths, with what of it may be seen: files PATH...
#   file=INODE MODE SIZE CHANGED LINK KIND PATH CONTENT USER:GROUP, PATH and CONTENT as base64
#   absent=PATH for each path that is not there
files() {
  count=0
  for place; do
    [ -e "$root$place" ] || printf 'absent=%s\n' "$(printf %s "$place" | encoded)"
  done
  for place; do
    [ -e "$root$place" ] && find -L "$root$place" -type f 2>/dev/null
  done | while IFS= read -r path; do
    count=$((count + 1))
    [ "$count" -le "$max_files" ] || { printf 'cut=%s\n' "$max_files"; break; }
    facts=$(stat -L -c '%d:%i %a %s %Y' -- "$path" 2>/dev/null) || continue
    link=f
    [ -L "$path" ] && link=l
    kind=$(kind_of "$path" "$facts")
    printf 'file=%s %s %s %s %s %s\n' "$facts" "$link" "$kind" \
      "$(printf %s "${path#"$root"}" | encoded)" "$(shown "$path" "$kind" | encoded)-" \
      "$(stat -L -c '%U:%G' -- "$path")"
  done
}

# kind_of PATH "INODE MODE SIZE CHANGED"
kind_of() {
  size=${2#* * }
  if [ ! -r "$1" ]; then
    printf unreadable
  elif [ "${size%% *}" -gt "$max_size" ]; then
    printf large
  elif grep -q -e '-----BEGIN ' -- "$1"; then
    printf pem
  elif grep -E -q -e 'kind"?: *"?Config("|,|[[:space:]]|$)' -e client-certificate -- "$1"; then
    printf kubeconfig
  else
    case "$(od -An -tx1 -N2 -- "$1" | tr -d ' ')" in
      308[123]) printf der ;;
      *) printf other ;;
    esac
  fi
}

# What may be seen of a file: shown PATH KIND
shown() {
  case $2 in
    pem)
      without_keys "$(public_in "$1")" <"$1"
      kubeconfig_in_pem "$1"
      ;;
    kubeconfig) kubeconfig <"$1" ;;
  esac
  return 0
}

# A kubeconfig with a comment that looks like PEM.
kubeconfig_in_pem() {
  grep -q -e '^ *client-certificate' -e '^ *certificate-authority' -- "$1" && kubeconfig <"$1"
}

# The public half of the private key in a file of PEM, if there is exactly one: public_in FILE
public_in() {
  [ "$(grep -c -e '^-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----' -- "$1")" = 1 ] && public_half <"$1"
}

# The public half of a private key, as one line of base64. Nothing is known without openssl, or if
# the key has a password.
public_half() {
  command -v openssl >/dev/null 2>&1 || return 0
  within 10 openssl pkey -passin pass: -pubout 2>/dev/null |
    sed -n '/^-----BEGIN PUBLIC KEY-----$/,/^-----END PUBLIC KEY-----$/p' | grep -v -e '^-' | tr -dc 'A-Za-z0-9+/='
}

# Of a kubeconfig as kubectl and kubeadm write it, print clusters and users with the names, the
# certificates and the paths of files. Everything else, and what is below it, is passed over.
# `unusual` is printed last if it is written in another way and something may be missing.
kubeconfig() {
  skip=-1 return_character=$(printf '\r')
  while IFS= read -r line || [ -n "$line" ]; do
    line=${line%"$return_character"}
    body=${line#"${line%%[! ]*}"}
    indent=$((${#line} - ${#body}))
    case $body in
      ''|'#'*|'---'|'...') continue ;;
      '{'*|'['*) printf '# unusual\n'; return 0 ;;
    esac
    if [ "$skip" -ge 0 ]; then
      [ "$indent" -gt "$skip" ] && continue
      case $indent$body in
        "$skip- "*|"$skip-") continue ;;
      esac
    fi
    item= column=$indent rest=$body
    case $body in
      '- '*) item='- ' column=$((indent + 2)) rest=${body#- } ;;
    esac
    key=${rest%%:*} value=${rest#*:}
    value=${value# }
    entry
    case $? in
      0) ;;
      1) [ -z "$item" ] || printf '%*s- x: ""\n' "$indent" '' ;;
      *) printf '# unusual\n'; return 0 ;;
    esac
  done
}

# Print one line of a kubeconfig if it may be seen: 1 if not, 2 if the rest must not be read.
entry() {
  skip=$column
  margin=$(printf '%*s%s' "$indent" '' "$item")
  case $key$value in
    clusters|users|cluster|user) skip=-1; printf '%s%s:\n' "$margin" "$key"; return 0 ;;
  esac
  closed "$value" || return 2
  case $key in
    name|certificate-authority|client-certificate|client-key)
      plain "$value" || return 1
      printf '%s%s: "%s"\n' "$margin" "$key" "$plain"
      ;;
    certificate-authority-data|client-certificate-data)
      case $value in
        ''|\"\"|null) return 1 ;;
      esac
      plain "$value" || return 2
      data=$(printf %s "$plain" | base64 -d 2>/dev/null | without_keys | encoded)
      printf '%s%s: "%s"\n' "$margin" "$key" "$data"
      ;;
    client-key-data)
      half=
      plain "$value" && half=$(printf %s "$plain" | base64 -d 2>/dev/null | public_half)
      data=$(printf '%s\n' '-----BEGIN PRIVATE KEY-----' | without_keys "$half" | encoded)
      printf '%s%s: "%s"\n' "$margin" "$key" "$data"
      ;;
    clusters|users|cluster|user) return 2 ;;
    *[!a-zA-Z-]*|'') return 2 ;;
    *) return 1 ;;
  esac
}

# Whether a value ends on its line, or below it with deeper lines.
closed() {
  case $1 in
    \"\"|\'\'|\{\}|\[\]) return 0 ;;
    \"*\\\"|\'*\'\'|\"|\') return 1 ;;
    \"*\"|\'*\') return 0 ;;
    \"*|\'*|\{*|\[*|\&*|\**|!*) return 1 ;;
  esac
}

# Set $plain to a value without its quotes: 1 if it has characters that need care.
plain() {
  plain=${1#[\"\']}
  plain=${plain%[\"\']}
  case $plain in
    ''|*[!A-Za-z0-9@._:/+=-]*) return 1 ;;
  esac
}

# --- components ------------------------------------------------------------------------------------

# Print the image and the flags of a static pod; a value that may be a secret is left out: manifest NAME
manifest() {
  file=$root/etc/kubernetes/manifests/$1.yaml
  [ -r "$file" ] || return 0
  printf 'manifest=%s\n' "$1"
  sed -n "s/^ *image: *[\"']\{0,1\}\([A-Za-z0-9@._:/-]*\).*/image=$1 \1/p" "$file"
  sed -n "s/^ *- *[\"']\{0,1\}\(--[a-z0-9-]*=[^\"' ]*\)[\"' ]*$/\1/p" "$file" | while IFS= read -r flag; do
    case $flag in
      *=/*) ;;
      *secret*|*token*|*passw*|*credential*|*@*) flag=${flag%%=*}= ;;
    esac
    printf 'flag=%s %s\n' "$1" "$flag"
    case $flag in
      *=/*) changed "${flag#*=}" ;;
    esac
  done
}

# Print when a file was changed.
changed() {
  [ -f "$root$1" ] && printf 'changed=%s %s\n' "$(stat -L -c %Y -- "$root$1")" "$1"
}

# Print when the programs of the control plane and kubelet began, in ticks since the boot.
processes() {
  printf 'boot=%s\n' "$(sed -n 's/^btime //p' "$root/proc/stat")"
  printf 'ticks=%s\n' "$(getconf CLK_TCK 2>/dev/null || printf 100)"
  for each in "$root"/proc/[0-9]*/comm; do
    read -r name 2>/dev/null <"$each" || continue
    case $name in
      etcd|kube-apiserver|kube-controller|kube-scheduler|kubelet) process "${each%/comm}" ;;
    esac
  done
}

# process DIRECTORY
process() {
  command=$(tr '\0' '\n' <"$1/cmdline" 2>/dev/null) || return 0
  name=$(printf '%s\n' "$command" | head -n 1)
  name=${name##*/}
  case $name in
    kubelet)  # its options win over its file
      printf '%s\n' "$command" | sed -n 's/^--rotate-certificates$/&=true/
s/^--rotate-server-certificates$/&=true/
s/^--rotate-certificates=\([a-z]*\)$/kubelet_setting=rotateCertificates \1/p
s/^--rotate-server-certificates=\([a-z]*\)$/kubelet_setting=serverTLSBootstrap \1/p'
      ;;
    *)  # not one of another cluster, or of somebody's own
      printf '%s\n' "$command" | grep -q -e '=/etc/kubernetes/' || return 0
      ;;
  esac
  times=$(cat "$1/stat" 2>/dev/null) || return 0
  printf 'process=%s %s %s\n' "$name" "${1##*/}" "$(start_of "$times")"
}

# Print what kubelet's configuration says of certificates and of its port.
kubelet_settings() {
  changed /var/lib/kubelet/config.yaml
  changed /etc/kubernetes/kubelet.conf
  [ -r "$root/var/lib/kubelet/config.yaml" ] || return 0
  for each in rotateCertificates serverTLSBootstrap tlsCertFile port address; do
    sed -n "s/^$each: *[\"']\{0,1\}\([A-Za-z0-9._:/-]\{1,\}\).*/kubelet_setting=$each \1/p" \
      "$root/var/lib/kubelet/config.yaml"
  done
}

# Print the lifetimes that are stored in the cluster. --raw needs no discovery, so kubectl leaves no
# cache behind.
stored() {
  admin=$root/etc/kubernetes/admin.conf
  [ -r "$admin" ] || return 0
  command -v kubectl >/dev/null 2>&1 || { printf 'stored=unknown kubectl is not there\n'; return 0; }
  config=$(timeout 20 kubectl --kubeconfig "$admin" --request-timeout=10s get \
    --raw /api/v1/namespaces/kube-system/configmaps/kubeadm-config 2>/dev/null </dev/null) ||
    { printf 'stored=unknown the API server does not give it\n'; return 0; }
  printf 'stored=read\n'
  printf '%s' "$config" | sed -e 's/\\n/\
/g' -e 's/"/\
/g' | sed -n -e 's/^certificateValidityPeriod: *\([0-9hms.]*\).*/stored_leaf=\1/p' \
    -e 's/^caCertificateValidityPeriod: *\([0-9hms.]*\).*/stored_ca=\1/p'
}
