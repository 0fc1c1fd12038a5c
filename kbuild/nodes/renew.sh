# The functions of `kbuild nodes renew` and `undo`; sent together with node.sh, whose rules apply.
kubernetes=/etc/kubernetes
manifests=$kubernetes/manifests
kubelet_files=/var/lib/kubelet
backups=$state/backups
base=$state/renewal

# --- facts -------------------------------------------------------------------------------------

# What a control plane is like, beside what `facts` prints.
control_plane() {
  clock_ticks=$(getconf CLK_TCK 2>/dev/null || echo 100)
  for each in etcd kube-apiserver kube-controller-manager kube-scheduler; do
    manifest=$manifests/$each.yaml
    [ -f "$manifest" ] && printf 'manifest=%s %s %s\n' "$each" "$(stat -L -c %Y "$manifest")" "$(base64 -w 0 <"$manifest")"
    process "$each"
    twins_of "$each"
  done
  process kubelet
  certificates
  kubelet_clients
  stored_leaf
  for each in ca front-proxy-ca etcd/ca; do
    [ -f "$kubernetes/pki/$each.key" ] || printf 'missing=pki/%s.key\n' "$each"
  done
  printf 'pods=%s\n' "$(grep -s '^staticPodPath:' "$kubelet_files/config.yaml")"
  printf 'size=%s\n' "$(size_of "$kubernetes" "$kubelet_files/pki" /var/lib/etcd/member/snap)"
  printf 'kubectl=%s\netcdctl=%s\n' "$(command -v kubectl)" "$(etcdctl_path)"
  printf 'firewall=%s\n' "$(firewall)"
  drained_port
  endpoint
  [ -f "$base" ] && [ -n "$(find_base)" ] && printf 'base=%s\n' "$(find_base)"
  each_backup | sed 's/^/backup=/'
  return 0
}

# Other files with a manifest of a component. kubelet reads each file there, whatever its name, unless
# it begins with a dot (pkg/kubelet/config/file.go, v1.20.2).
twins_of() {
  for file in "$manifests"/*; do
    [ "$file" != "$manifests/$1.yaml" ] && [ -f "$file" ] || continue
    grep -q "^  name: [\"']\{0,1\}$1[\"']\{0,1\} *\(#.*\)\{0,1\}\$" "$file" && one twin "$1 ${file##*/}"
  done
}

# The last line that says why a program failed.
last_line() {
  printf '%s\n' "$1" | grep -v 'To see the stack trace' | tail -n 1
}

size_of() {
  total=0
  for each in "$@"; do
    [ -d "$each" ] || continue
    kib=$(du -skL -- "$each" 2>/dev/null | cut -f 1)
    total=$((total + ${kib:-0}))
  done
  printf '%s' "$total"
}

# The running process of a component: process NAME prints PID, start in ticks since the boot, and
# in seconds since the epoch.
process() {
  booted=$(grep '^btime ' /proc/stat | cut -d ' ' -f 2)
  processes_of "$1" | while read -r pid ticks; do
    printf 'process=%s %s %s %s\n' "$1" "$pid" "$ticks" "$((booted + ticks / ${clock_ticks:-100}))"
  done
}

# PID and start of each process of a program; only those of pods if there are some.
processes_of() {
  found=
  in_pods=
  short=$(printf '%.15s' "$1")
  for each in /proc/[0-9]*; do
    read -r name 2>/dev/null <"$each/comm" || continue
    [ "$name" = "$short" ] || continue
    first=$(tr '\0' '\n' 2>/dev/null <"$each/cmdline" | head -n 1)
    [ "${first##*/}" = "$1" ] || continue
    read -r line 2>/dev/null <"$each/stat" || continue
    started=$(start_of "$line")
    found="$found${each#/proc/} $started
"
    grep -q kubepods "$each/cgroup" 2>/dev/null && in_pods="$in_pods${each#/proc/} $started
"
  done
  printf '%s' "${in_pods:-$found}"
}

# The certificates of this node, without their keys.
certificates() {
  for each in "$kubernetes"/pki/*.crt "$kubernetes"/pki/etcd/*.crt; do
    [ -f "$each" ] || continue
    printf 'certificate=%s %s %s\n' "${each#"$kubernetes"/}" "$(stat -L -c %Y "$each")" "$(certificates_in "$each")"
  done
  for each in "$kubernetes"/*.conf; do
    has_client "$each" || continue
    printf 'certificate=%s %s %s\n' "${each#"$kubernetes"/}" "$(stat -L -c %Y "$each")" "$(client_in "$each")"
  done
}

# The certificates in a file that may have keys, too.
certificates_in() {
  without_keys <"$1" | base64 -w 0
}

has_client() {
  [ -n "$(value_of client-certificate-data "$1")" ]
}

# The certificates in the client-certificate-data of a kubeconfig, which may have keys, too.
client_in() {
  value_of client-certificate-data "$1" | base64 -d 2>/dev/null | without_keys | base64 -w 0
}

# The client certificates with which kubelet may start, without their keys: the one that it has
# rotated last, and the one that kubelet.conf names or has in it.
kubelet_clients() {
  conf=$kubernetes/kubelet.conf
  current=$kubelet_files/pki/kubelet-client-current.pem
  one node "$(hostname 2>/dev/null || cat /proc/sys/kernel/hostname)"
  [ -f "$conf" ] && has_rotated && printf 'kubelet_conf=rotated\n'
  named=$(value_of client-certificate "$conf")
  [ "$named" = "$current" ] && named=
  for each in "$current" "$named"; do
    [ -n "$each" ] && [ -f "$each" ] || continue
    printf 'kubelet_client=%s %s\n' "$(stat -L -c %Y "$each")" "$(certificates_in "$each")"
  done
  has_client "$conf" && printf 'kubelet_client=%s %s\n' "$(stat -L -c %Y "$conf")" "$(client_in "$conf")"
  return 0
}

# The first value of a key in a kubeconfig: value_of KEY FILE
value_of() {
  line=$(grep -s "^ *$1: " "$2" | head -n 1)
  line=${line#*: }
  line=${line#[\"\']}
  printf '%s' "${line%[\"\']}"
}

# Whether kubelet.conf names the file to which kubelet writes each new certificate.
has_rotated() {
  for each in client-certificate client-key; do
    [ "$(value_of "$each" "$kubernetes/kubelet.conf")" = "$kubelet_files/pki/kubelet-client-current.pem" ] || return 1
  done
}

# How long certificates are valid, as the newest backup tells that has the stored configuration.
stored_leaf() {
  newest=
  for each in "$backups"/*/kubeadm-config.yaml; do
    [ -f "$each" ] && newest=$each
  done
  [ -z "$newest" ] || one stored_leaf "$(value_of certificateValidityPeriod "$newest")"
}

# etcdctl of the node, or that in the container of etcd, which is static in its official image.
etcdctl_path() {
  command -v etcdctl && return 0
  pid=$(processes_of etcd | head -n 1 | cut -d ' ' -f 1)
  for each in /usr/local/bin /usr/bin /bin; do
    inside=/proc/$pid/root$each/etcdctl
    [ -x "$inside" ] && "$inside" version >/dev/null 2>&1 && printf '%s' "$inside" && return 0
  done
}

# The server that clients of this cluster use, and whether it is an address of the node itself.
endpoint() {
  # Since v1.31, kubelet of a control plane asks its own API server: ControlPlaneKubeletLocalMode
  # (cmd/kubeadm/app/features/features.go, v1.33.3).
  for each in admin super-admin kubelet; do
    server=$(value_of server "$kubernetes/$each.conf")
    [ -z "$server" ] || break  # somebody may have moved a file away
  done
  printf 'server=%s\n' "$server"
  name=${server#*://}
  name=${name%/*}
  name=${name%:*}
  address=$(getent ahosts "$name" 2>/dev/null | head -n 1 | cut -d ' ' -f 1)
  [ -n "$address" ] && grep -q -- "|-- $address\$" /proc/net/fib_trie 2>/dev/null && printf 'own_server=yes\n'
}

firewall() {
  if command -v iptables >/dev/null 2>&1 && iptables -w -n -L INPUT >/dev/null 2>&1; then
    printf iptables
  elif command -v nft >/dev/null 2>&1 && nft list tables >/dev/null 2>&1; then
    printf nft
  fi
}

# Issue a certificate in a directory of its own, to see what this kubeadm issues:
# trial KUBEADM CONFIGURATION, which ends with the ClusterConfiguration
trial() {
  mkdir -p "$run" && folder=$(mktemp -d "$run/trial.XXXXXX") || fail "$run cannot be written"
  printf '%scertificatesDir: %s\n' "$2" "$folder/pki" >"$folder/kubeadm.yaml"
  for each in ca apiserver-kubelet-client; do
    said=$(cd "$folder" && "$1" init phase certs "$each" --config "$folder/kubeadm.yaml" 2>&1 </dev/null) ||
      { rm -rf "$folder"; fail "kubeadm cannot issue a certificate for trial: $(last_line "$said")"; }
  done
  printf 'issued=%s\n' "$(base64 -w 0 <"$folder/pki/apiserver-kubelet-client.crt")"
  rm -rf "$folder"
}

# --- backups -----------------------------------------------------------------------------------

# The backup of a renewal that has no end, if it is whole and less than a day old.
find_base() {
  [ -f "$base" ] || return 0
  [ "$(($(date +%s) - $(stat -c %Y "$base")))" -lt 86400 ] || return 0
  generation=$(cat "$base")
  if (is_whole "$generation") 2>/dev/null; then
    printf '%s' "$generation"
  fi
}

# sums_in DIRECTORY
sums_in() {
  (cd "$1" 2>/dev/null && sums .)
}

# Print the sha256 of each file below the current directory.
sums() {
  for each in "$1"/* "$1"/.[!.]*; do
    if [ -d "$each" ]; then
      (sums "$each")
    elif [ -f "$each" ]; then
      sha256sum -- "$each"
    fi
  done
}

# Whether a backup is there and has what was written: is_whole GENERATION
is_whole() {
  [ -f "$backups/$1/meta" ] || fail "there is no backup $1"
  (cd "$backups/$1" && sha256sum --status -c sha256) || fail "the backup $1 is damaged"
}

# Print the names of all backups.
each_backup() {
  for each in "$backups"/*/meta; do
    each=${each%/meta}
    case $each in *.part) continue ;; esac # not moved to its place yet
    [ -f "$each/meta" ] && printf '%s\n' "${each##*/}"
  done
}

# Print all backups: when each was made, by which run, its KiB, whether it is whole, what is in it,
# what is missing, and the certificate of the API server.
list_backups() {
  each_backup | while IFS= read -r each; do
    folder=$backups/$each
    made= run_of=
    read -r made run_of <"$folder/meta"
    whole=damaged
    (is_whole "$each") 2>/dev/null && whole=whole
    parts=-
    for part in kubernetes kubelet kubeadm-config.yaml "$folder"/kubelet-config*.yaml etcd.db ClusterConfiguration; do
      [ -e "$folder/${part##*/}" ] && parts=$parts,${part##*/}
    done
    missing=$(tr ' \n' '_,' 2>/dev/null <"$folder/missing")
    one kept "$each ${made:--} ${run_of:--} $(size_of "$folder") $whole $parts -,$missing \
-$(certificates_in "$folder/kubernetes/pki/apiserver.crt" 2>/dev/null)"
  done
}

# Whether this run has a backup, and the renewal is marked as begun: has_base GENERATION
has_base() {
  [ "$(cat "$base" 2>/dev/null)" = "$1" ] || fail "the renewal has not begun"
  is_whole "$1"
}

# Keep /etc/kubernetes and the rest of a node that a renewal needs:
# keep GENERATION KUBELET-CONFIGMAP KUBECTL ETCDCTL [DATA], KUBECTL and ETCDCTL may be empty; then
# DATA is the directory of etcd, which is kept if etcd does not run
keep() {
  part=$backups/$1.part
  # Also what is left of others, if the power failed: nobody would find these keys.
  rm -rf "$backups"/*.part && mkdir -p "$part/kubelet" || fail "$part cannot be made: no space?"
  chmod 700 "$backups" "$part"
  copy_tree "$kubernetes" "$part/kubernetes"
  for each in config.yaml kubeadm-flags.env pki; do
    [ -e "$kubelet_files/$each" ] && copy_tree "$kubelet_files/$each" "$part/kubelet/$each"
  done
  keep_links "$kubelet_files/pki" "$part/kubelet/pki"
  keep_config_maps "$part" "$2" "$3"
  if [ -n "${5-}" ] && has_room_for "$5"; then keep_data "$part" "$5"; else keep_etcd "$part" "$4"; fi
  (cd "$part" && list=$(sums .) && printf '%s\n' "$list" >sha256) || no_backup "$part" "it cannot be written: no space?"
  for tree in kubernetes:"$kubernetes" kubelet/pki:"$kubelet_files/pki"; do
    same_tree "${tree#*:}" "$part/${tree%%:*}"
  done
  (cd "$part" && sha256sum --status -c sha256) || no_backup "$part" "what was written differs"
  printf '%s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$(has_the_lock)" >"$part/meta" || no_backup "$part" "it cannot be written: no space?"
  sync
  rm -rf "${backups:?}/$1" && mv "$part" "$backups/$1" && printf '%s\n' "$1" >"$base.part" && mv "$base.part" "$base" ||
    fail "$backups/$1 cannot be written"
}

no_backup() {
  rm -rf "$1"
  fail "the backup ${1%.part} could not be made: $2"
}

# What links lead to is kept, and not the links: kubeadm writes through them, so that a link in a backup
# would lead to the new file. One that leads nowhere is left out.
copy_tree() {
  why=$(cp -aL -- "$1" "$2" 2>&1) || { [ -d "$1" ] && [ "$(sums_in "$1")" = "$(sums_in "$2")" ]; } ||
    no_backup "$part" "$1 cannot be copied: ${why:-no space?}"
}

# kubelet wants links for the certificates in use, and an administrator may copy these back. Source:
# updateSymlink in staging/src/k8s.io/client-go/util/certificate/certificate_store.go (v1.20.2).
# keep_links DIRECTORY COPY
keep_links() {
  for each in kubelet-client-current.pem kubelet-server-current.pem; do
    [ -L "$1/$each" ] && to=$(readlink -f -- "$1/$each") && [ -f "$2/${to##*/}" ] || continue
    [ "${to%/*}" != "$(readlink -f -- "$1")" ] || ln -sfn -- "${to##*/}" "$2/$each"
  done
}

# Whether two trees have the same files: same_tree ORIGINAL COPY
same_tree() {
  [ -d "$1" ] || return 0
  [ "$(sums_in "$1")" = "$(sums_in "$2")" ] || no_backup "$part" "$1 was changed meanwhile, or the copy differs"
}

keep_config_maps() {
  for map in kubeadm-config "$2"; do
    [ -n "$3" ] && "$3" --kubeconfig "$kubernetes/admin.conf" --request-timeout 20s -n kube-system get configmap "$map" -o yaml \
      >"$1/$map.yaml" 2>/dev/null </dev/null && [ -s "$1/$map.yaml" ] && continue
    rm -f -- "$1/$map.yaml"
    printf '%s\n' "the ConfigMap $map" >>"$1/missing"
  done
}

keep_etcd() {
  if [ ! -f "$manifests/etcd.yaml" ] || [ -z "$2" ]; then
    printf '%s\n' "a snapshot of etcd" >>"$1/missing"
    return 0
  fi
  said=$(etcd_client "$2" snapshot save "$1/etcd.db" 2>&1) || no_backup "$1" "no snapshot of etcd: $(last_line "$said")"
  said=$(etcd_client "$2" snapshot status "$1/etcd.db" 2>&1) ||
    no_backup "$1" "the snapshot of etcd cannot be read: $(last_line "$said")"
  rm -f -- "$1/etcd.db.part"
}

# Keep the data of etcd, which changes while etcd runs: keep_data PART DIRECTORY
keep_data() {
  mkdir -p "$1/etcd" || no_backup "$1" "it cannot be written: no space?"
  if [ -d "$2/member" ] && [ -z "$(processes_of etcd)" ]; then
    copy_tree "$2/member" "$1/etcd/member"
    [ -n "$(processes_of etcd)" ] || return 0
  fi
  rm -rf "$1/etcd"
  printf '%s\n' "a snapshot of etcd" >>"$1/missing"
}

# has_room_for DIRECTORY
has_room_for() {
  [ "$(free_kib "$backups")" -gt "$(($(size_of "$1") + 65536))" ]
}

# etcd_client ETCDCTL WORD...
etcd_client() {
  client=$1
  shift
  ETCDCTL_API=3 "$client" --endpoints https://127.0.0.1:2379 --cacert "$kubernetes/pki/etcd/ca.crt" \
    --cert "$kubernetes/pki/etcd/server.crt" --key "$kubernetes/pki/etcd/server.key" "$@" </dev/null
}

# The renewal has ended.
finish() {
  rm -f -- "$base" "$base.renewed" "$base".*.conf "$run"/*.before
}

unfinished_base() {
  [ ! -e "$base" ] || fail "the renewal has no end yet"
}

# --- the stored configuration --------------------------------------------------------------------

# The ClusterConfiguration that the cluster stores, byte for byte: configuration KUBECTL
configuration() {
  all=$(kubeadm_config "$1" get --output 'jsonpath={.metadata.resourceVersion}') || fail "kubeadm-config cannot be read"
  printf 'revision=%s\nconfiguration=%s\n' "$all" "$(stored_text "$1" | base64 -w 0)"
}

# kubeadm_config KUBECTL VERB WORD...
kubeadm_config() {
  client=$1 verb=$2
  shift 2
  "$client" --kubeconfig "$kubernetes/admin.conf" --request-timeout 20s -n kube-system "$verb" configmap kubeadm-config \
    "$@" 2>/dev/null </dev/null
}

stored_text() {
  kubeadm_config "$1" get --output 'jsonpath={.data.ClusterConfiguration}'
}

sha_of_stored() {
  stored_text "$1" | sha256sum | cut -c 1-64
}

# has_configuration KUBECTL SHA256
has_configuration() {
  [ "$(sha_of_stored "$1")" = "$2" ] || fail "kube-system/kubeadm-config does not have the sha256 $2"
}

# Store a configuration in place of another, and keep that in a backup:
# store_configuration KUBECTL SHA256-NOW SHA256-AFTERWARDS PATCH [GENERATION]
store_configuration() {
  now=$(sha_of_stored "$1")
  [ "$now" = "$3" ] && return 0
  [ "$now" = "$2" ] || fail "somebody has changed kube-system/kubeadm-config meanwhile, so it is left as it is"
  if [ -n "${5:-}" ]; then
    kept=$backups/$5/ClusterConfiguration
    stored_text "$1" >"$kept.part" && [ "$(sha_of "$kept.part")" = "$2" ] && printf '%s %s\n' "$3" "$2" >"$kept.after" &&
      mv -f -- "$kept.part" "$kept" || fail "$kept cannot be written: no space?"
    flush "$kept" "$kept.after"
  fi
  mkdir -p "$run" && printf '%s' "$4" >"$run/configuration.json" || fail "$run cannot be written"
  kubeadm_config "$1" patch --type merge --patch-file "$run/configuration.json" >/dev/null ||
    fail "kube-system/kubeadm-config cannot be changed: see \`kubectl -n kube-system get configmap kubeadm-config\`"
  rm -f -- "$run/configuration.json"
}

# --- renewal -------------------------------------------------------------------------------------

# renew_certificates GENERATION KUBEADM WORD...
renew_certificates() {
  generation=$1
  shift
  said=$("$@" 2>&1 </dev/null) || fail "kubeadm failed: $(last_line "$said")"
  printf '%s\n' "$generation" >"$base.renewed" || fail "$base.renewed cannot be written"
}

# Whether kubeadm has renewed all in the renewal with this backup: has_renewed GENERATION
has_renewed() {
  [ "$(cat "$base.renewed" 2>/dev/null)" = "$1" ] || fail "kubeadm has not renewed all"
}

# --- repair --------------------------------------------------------------------------------------

# Renew with a configuration, because kubeadm cannot read that of the cluster:
# renew_without_cluster GENERATION DIRECTORY CONFIGURATION KUBEADM WORD...
renew_without_cluster() {
  generation=$1 directory=$2
  configure "$2" "$3"
  shift 3
  (renew_certificates "$generation" "$@") || { rm -rf "$directory"; exit 1; }
  rm -rf "$directory"
}

configure() {
  rm -rf "$1" && mkdir -p "$1" && chmod 700 "$1" && printf '%s' "$2" >"$1/kubeadm.yaml" ||
    fail "$1/kubeadm.yaml cannot be written: no space?"
}

# Have kubeadm make a kubeconfig that it does not renew:
# make_kubeconfig GENERATION FILE DIRECTORY CONFIGURATION KUBEADM WORD...
make_kubeconfig() {
  generation=$1 file=$2 directory=$3
  configure "$3" "$4"
  shift 4
  (made_kubeconfig "$@") || { rm -rf "$directory"; exit 1; }
  rm -rf "$directory"
  printf '%s\n' "$generation" >"$base.$file" || fail "$base.$file cannot be written: no space?"
}

made_kubeconfig() {
  said=$("$@" 2>&1 </dev/null) || fail "kubeadm failed: $(last_line "$said")"
  for each in client-certificate-data client-key-data; do
    [ -n "$(value_of "$each" "$directory/$file")" ] || fail "kubeadm made a $file without $each"
  done
  if [ "$file" = kubelet.conf ] && has_rotated; then
    give_kubelet "$directory/$file"
    return
  fi
  # Without it, kubelet takes the certificate in kubelet.conf.
  [ "$file" != kubelet.conf ] || rm -f -- "$kubelet_files/pki/kubelet-client-current.pem"
  copy_all "$directory/$file" "$kubernetes/.kbuild-$file" && mv -f -- "$kubernetes/.kbuild-$file" "$kubernetes/$file" ||
    fail "$kubernetes/$file cannot be written: no space?"
}

# Give kubelet the certificate and the key of a kubeconfig as one that it has rotated itself.
give_kubelet() {
  mkdir -p "$kubelet_files/pki" || fail "$kubelet_files/pki cannot be made"
  new=$kubelet_files/pki/kubelet-client-$(date -u +%Y-%m-%d-%H-%M-%S).pem
  for each in client-certificate-data client-key-data; do
    value_of "$each" "$1" | base64 -d || fail "$each of a new kubelet.conf cannot be read"
  done >"$new.part" && mv -f -- "$new.part" "$new" || fail "$new cannot be written: no space?"
  link=$kubelet_files/pki/kubelet-client-current.pem
  rm -f -- "$link.part" && ln -s "$new" "$link.part" && mv -f -- "$link.part" "$link" || fail "$link cannot be written"
}

# Whether kubeadm has made a kubeconfig in the repair with this backup: has_made GENERATION FILE
has_made() {
  [ "$(cat "$base.$2" 2>/dev/null)" = "$1" ] || fail "kubeadm has not made $2"
}

# What a worker has with which its kubelet can log in again.
worker_facts() {
  bootstrap=$kubernetes/bootstrap-kubelet.conf
  kubelet_clients
  one server "$(value_of server "$kubernetes/kubelet.conf")"
  one base "$(find_base)"
  [ ! -f "$bootstrap" ] || is_made_here "$bootstrap" || printf 'bootstrap=other\n'
  [ -z "$(authority_words)" ] || printf 'authority=yes\n'
  one servers "$(grep -c '^ *server: ' "$kubernetes/kubelet.conf" 2>/dev/null)"
  { systemctl cat kubelet || cat /etc/init.d/kubelet /etc/conf.d/kubelet; } 2>/dev/null | grep -v '^ *#' |
    tr "= \"'" '\n\n\n\n' | grep -A 1 -x -e --bootstrap-kubeconfig | grep -q -x "$bootstrap" && printf 'bootstraps=yes\n'
  return 0
}

is_made_here() {
  head -n 1 "$1" | grep -q '^# kbuild$'
}

# The line of kubelet.conf that has the CA of the cluster.
authority_words() {
  for each in certificate-authority-data certificate-authority; do
    found=$(value_of "$each" "$kubernetes/kubelet.conf")
    [ -n "$found" ] && printf '%s: "%s"' "$each" "$found" && return 0
  done
}

# Make the bootstrap token in $secret: make_token KUBEADM DIRECTORY CONFIGURATION, which ends with
# the InitConfiguration
make_token() {
  configure "$2" "$3$secret
"
  said=$("$1" token create --kubeconfig "$kubernetes/admin.conf" --config "$2/kubeadm.yaml" 2>&1 >/dev/null </dev/null)
  code=$?
  rm -rf "$2"
  last=$(last_line "$said")
  case $last in *"$secret"*) last="see \`kubeadm token create\` there" ;; esac
  [ "$code" = 0 ] || fail "kubeadm cannot make a token: $last"
}

# has_token KUBEADM ID
has_token() {
  "$1" token list --kubeconfig "$kubernetes/admin.conf" 2>/dev/null </dev/null | grep -q "^$2\." || fail "there is no token $2"
}

# remove_token KUBEADM ID
remove_token() {
  (has_token "$1" "$2") 2>/dev/null || return 0
  said=$("$1" token delete "$2" --kubeconfig "$kubernetes/admin.conf" 2>&1 </dev/null) ||
    fail "kubeadm cannot remove the token $2: $(last_line "$said")"
}

# Let kubelet get a certificate with the token in $secret: join_again GENERATION SECONDS
join_again() {
  bootstrap=$kubernetes/bootstrap-kubelet.conf
  current=$kubelet_files/pki/kubelet-client-current.pem
  before=$(sha_of "$current")
  make_bootstrap
  (restart_kubelet) || { rm -f -- "$bootstrap"; exit 1; }
  left=$2
  while [ "$left" -gt 0 ] && [ "$(sha_of "$current")" = "$before" ]; do
    left=$((left - 1))
    sleep 1
  done
  # What kubelet has read stays in its memory.
  rm -f -- "$bootstrap"
  [ "$left" -gt 0 ] ||
    fail "kubelet got no certificate within $2 seconds: see \`kubectl get csr\` and \`journalctl -u kubelet\` there"
  printf '%s\n' "$1" >"$base.kubelet.conf" || fail "$base.kubelet.conf cannot be written: no space?"
}

# kubelet may have been killed before it read the token, with the node.
end_joining() {
  bootstrap=$kubernetes/bootstrap-kubelet.conf
  rm -f -- "$bootstrap.part"
  if [ -f "$bootstrap" ] && is_made_here "$bootstrap"; then rm -f -- "$bootstrap"; fi
  finish
}

# No here-document: bash before 5.1 writes it to a file in /tmp, which may be full, and this one has a token.
make_bootstrap() {
  printf '%s\n' '# kbuild' 'apiVersion: v1' 'kind: Config' \
    'clusters:' '- name: kubernetes' '  cluster:' \
    "    server: \"$(value_of server "$kubernetes/kubelet.conf")\"" "    $(authority_words)" \
    'users:' '- name: bootstrap' '  user:' "    token: \"$secret\"" \
    'contexts:' '- name: bootstrap' '  context: {cluster: kubernetes, user: bootstrap}' \
    'current-context: bootstrap' >"$bootstrap.part" && mv -f -- "$bootstrap.part" "$bootstrap" ||
    { rm -f -- "$bootstrap.part"; fail "$bootstrap cannot be written: no space?"; }
}

# Restart kubelet, which static pods survive.
restart_kubelet() {
  if command -v systemctl >/dev/null 2>&1; then
    systemctl reset-failed kubelet 2>/dev/null
    said=$(systemctl restart kubelet 2>&1 </dev/null) || fail "kubelet cannot be started: $(last_line "$said")"
  elif command -v rc-service >/dev/null 2>&1; then
    said=$(rc-service kubelet restart 2>&1 </dev/null) || fail "kubelet cannot be started: $(last_line "$said")"
  else
    fail "kubelet cannot be restarted: neither systemctl nor rc-service is here"
  fi
}

# Whether kubelet was started after its certificate was written.
kubelet_is_new() {
  started=$(process kubelet)
  [ -n "$started" ] || fail "kubelet does not run"
  for each in "$kubernetes/kubelet.conf" "$kubelet_files/pki/kubelet-client-current.pem"; do
    [ ! -f "$each" ] || [ "${started##* }" -gt "$(stat -L -c %Y "$each")" ] || fail "kubelet has not read $each"
  done
}

# Whether kubelet stays: one that cannot use its certificate ends at once. kubelet_stays SECONDS
kubelet_stays() {
  left=$1 same=0 last=
  while [ "$left" -gt 0 ]; do
    now=$(processes_of kubelet)
    if [ -n "$now" ] && [ "$now" = "$last" ]; then same=$((same + 1)); else same=0; fi
    [ "$same" -ge 5 ] && return 0
    last=$now
    left=$((left - 1))
    sleep 1
  done
  fail "kubelet does not stay: see \`journalctl -u kubelet\` there"
}

# Whether a component was started after the files were written that it reads, and has stayed:
# has_read NAME SECONDS FILE...
has_read() {
  name=$1 age=$2
  shift 2
  started=$(process "$name")
  [ -n "$started" ] && [ "$(printf '%s\n' "$started" | wc -l)" -eq 1 ] || fail "$name does not run"
  for each in "$@"; do
    [ ! -f "$kubernetes/$each" ] || [ "${started##* }" -gt "$(stat -L -c %Y "$kubernetes/$each")" ] ||
      fail "$name has not read $each"
  done
  [ "$(($(date +%s) - ${started##* }))" -ge "$age" ] || fail "$name may end again"
}

# --- restarts ------------------------------------------------------------------------------------

# Replace lines of a manifest, at once, which makes kubelet restart the pod:
# rewrite NAME SOURCE SHA256-OF-SOURCE SHA256-NOW LINE REMOVED TEXT SHA256-AFTERWARDS
rewrite() {
  target=$manifests/$1.yaml
  [ "$(sha_of "$target")" = "$8" ] && return 0
  has_sha "$2" "$3"
  [ "$(sha_of "$target")" = "$4" ] || fail "$target was changed after the plan was made"
  mkdir -p "$run" && processes_of "$1" >"$run/$1.before" || fail "$run cannot be written"
  # Not in the directory of manifests: kubelet reads every file there.
  temporary=$kubernetes/.kbuild-$1.yaml
  copy_all "$target" "$temporary" || fail "$temporary cannot be written: no space?"
  { head -n "$5" -- "$2" && printf '%s' "$7" && tail -n "+$(($5 + $6 + 1))" -- "$2"; } >"$temporary" ||
    { rm -f -- "$temporary"; fail "$temporary cannot be written: no space?"; }
  replace_manifest "$1" "$temporary" "$8"
}

# replace_manifest NAME TEMPORARY SHA256
replace_manifest() {
  [ "$(sha_of "$2")" = "$3" ] || { rm -f -- "$2"; fail "$2 does not have the sha256 $3: no space?"; }
  sync "$2" 2>/dev/null
  mv -f -- "$2" "$manifests/$1.yaml" || fail "$manifests/$1.yaml cannot be replaced"
}

# Whether a component was started after its manifest was changed; waits: restarted NAME SECONDS
restarted() {
  left=$(($2 * 5))
  while [ "$left" -gt 0 ]; do
    now=$(processes_of "$1")
    if [ -n "$now" ] && [ "$(printf '%s\n' "$now" | wc -l)" -eq 1 ] && is_new "$1" "$now"; then
      printf 'process=%s %s\n' "$1" "$now"
      return 0
    fi
    left=$((left - 1))
    sleep 0.2
  done
  if [ -z "$now" ]; then
    fail "kubelet stopped $1 and did not start it again within $2 seconds; see journalctl -u kubelet there"
  fi
  fail "kubelet did not restart $1 within $2 seconds after $manifests/$1.yaml was changed; the old process still runs; see journalctl -u kubelet there"
}

# Whether a manifest is as planned, and its component was started since: is_restarted NAME SHA256
is_restarted() {
  has_sha "$manifests/$1.yaml" "$2"
  restarted "$1" 1
}

is_new() {
  if [ -f "$run/$1.before" ]; then
    ! grep -qx -- "$2" "$run/$1.before"
    return
  fi
  clock_ticks=$(getconf CLK_TCK 2>/dev/null || echo 100)
  line=$(process "$1")
  [ "${line##* }" -ge "$(stat -L -c %Y "$manifests/$1.yaml")" ]
}

# --- the way back --------------------------------------------------------------------------------

# Put the certificates and kubeconfigs of a backup in their places: restore_files GENERATION
restore_files() {
  is_whole "$1"
  rm -f -- "$base.renewed"
  (cd "$backups/$1/kubernetes" && restore_below .) || fail "the files of the backup $1 cannot be put back: no space?"
}

restore_below() {
  for file in "$1"/*; do
    case ${file#./} in
      # kubelet renews its own, and manifests are replaced one at a time.
      manifests|kubelet.conf|bootstrap-kubelet.conf) continue ;;
    esac
    if [ -d "$file" ] && [ ! -L "$file" ]; then
      mkdir -p "$kubernetes/$file" && (restore_below "$file") || return 1
    elif [ "$(sha_of "$file")" != "$(sha_of "$kubernetes/$file")" ]; then
      place=$(readlink -f -- "$kubernetes/$file") && beside=$(dirname -- "$place")/.kbuild-restore || return 1
      rm -f -- "$beside"
      # A new time: what was started before has not read it.
      copy_all "$file" "$beside" && touch -- "$beside" && mv -f -- "$beside" "$place" || return 1
    fi
  done
}

# Whether certificates and kubeconfigs are those of a backup: has_files GENERATION
has_files() {
  is_whole "$1"
  (cd "$backups/$1/kubernetes" && same_below .) || fail "the files are not those of the backup $1"
}

same_below() {
  for file in "$1"/*; do
    case ${file#./} in
      manifests|kubelet.conf|bootstrap-kubelet.conf) continue ;;
    esac
    if [ -d "$file" ] && [ ! -L "$file" ]; then
      (same_below "$file") || return 1
    elif [ "$(sha_of "$file")" != "$(sha_of "$kubernetes/$file")" ]; then
      return 1
    fi
  done
}

# Take back a renewal that failed at a component: its files and its manifest are those of the
# backup again, and it runs: go_back GENERATION NAME SECONDS
go_back() {
  restore_files "$1"
  kept=$backups/$1/kubernetes/manifests/$2.yaml
  sha=$(sha_of "$kept")
  [ -n "$sha" ] || fail "the backup $1 has no manifest of $2"
  [ "$(sha_of "$manifests/$2.yaml")" = "$sha" ] && return 0
  temporary=$kubernetes/.kbuild-$2.yaml
  copy_all "$kept" "$temporary" && touch -- "$temporary" || fail "$temporary cannot be written: no space?"
  replace_manifest "$2" "$temporary" "$sha"
  left=$3
  while [ "$left" -gt 0 ]; do
    sleep 1
    left=$((left - 1))
    [ -n "$(processes_of "$2")" ] || continue
    [ "$left" -lt "$(($3 - 5))" ] && return 0
  done
  fail "$2 does not run $3 seconds after its old manifest was put back; see journalctl -u kubelet there"
}

# The manifests of a backup: manifests_of GENERATION
manifests_of() {
  is_whole "$1"
  for each in etcd kube-apiserver kube-controller-manager kube-scheduler; do
    kept=$backups/$1/kubernetes/manifests/$each.yaml
    [ -f "$kept" ] && printf 'manifest=%s %s %s\n' "$each" 0 "$(base64 -w 0 <"$kept")"
  done
  kept=$backups/$1/ClusterConfiguration
  if [ -f "$kept" ]; then
    read -r after before <"$kept.after" && has_sha "$kept" "$before" || fail "the backup $1 is damaged"
    printf 'configuration=%s\nstored=%s\n' "$(base64 -w 0 <"$kept")" "$after"
  fi
  kubernetes=$backups/$1/kubernetes
  certificates
}

# --- drain -----------------------------------------------------------------------------------------

# Reject new connections to a port from other machines; a timer here ends that, whatever happens
# to kbuild and the connection: drain PORT SECONDS WAIT
drain() {
  undrain "$1"
  mkdir -p "$run" || fail "$run cannot be made"
  setsid=$(command -v setsid || true)
  # The timer is there before the rule is.
  $setsid sh -c 'sleep "$1"; shift; eval "$1"' kbuild-drain "$2" "$(undrain_words "$1")" </dev/null >/dev/null 2>&1 &
  printf '%s\n' "$!" >"$run/drain.pid" || fail "$run cannot be written"
  case $(firewall) in
    iptables)
      # shellcheck disable=SC2046 # words of a rule
      iptables -w -I INPUT $(drain_rule "$1") || fail "iptables cannot reject connections to port $1"
      command -v ip6tables >/dev/null 2>&1 && ip6tables -w -I INPUT $(drain_rule "$1") 2>/dev/null
      ;;
    nft)
      printf '%s\n' 'table inet kbuild_drain {' '  chain input {' '    type filter hook input priority -10;' \
        "    iifname != \"lo\" tcp dport $1 tcp flags & (syn|ack) == syn reject with tcp reset" '  }' '}' |
        nft -f - || fail "nft cannot reject connections to port $1"
      ;;
    *) fail "neither iptables nor nft works here" ;;
  esac
  sleep "$3"
}

drain_rule() {
  printf '%s' "-p tcp --dport $1 --syn ! -i lo -m comment --comment kbuild-drain -j REJECT --reject-with tcp-reset"
}

undrain_words() {
  printf '%s' "while iptables -w -D INPUT $(drain_rule "$1"); do :; done; while ip6tables -w -D INPUT $(drain_rule "$1"); do :; done; nft delete table inet kbuild_drain"
}

# Accept connections again: undrain PORT
undrain() {
  (eval "$(undrain_words "$1")") >/dev/null 2>&1
  pid=$(cat "$run/drain.pid" 2>/dev/null)
  if [ -n "$pid" ] && grep -q kbuild-drain "/proc/$pid/cmdline" 2>/dev/null; then
    kill "$pid" 2>/dev/null
  fi
  rm -f -- "$run/drain.pid"
}

# Whether new connections are rejected: drained PORT
drained() {
  # shellcheck disable=SC2046 # words of a rule
  case $(firewall) in
    iptables) iptables -w -C INPUT $(drain_rule "$1") 2>/dev/null || fail "connections to port $1 are accepted" ;;
    nft) nft list table inet kbuild_drain >/dev/null 2>&1 || fail "connections to port $1 are accepted" ;;
    *) fail "neither iptables nor nft works here" ;;
  esac
}

# The port to which an earlier run still rejects connections.
drained_port() {
  rule=$(iptables -w -S INPUT 2>/dev/null | grep kbuild-drain | head -n 1)
  [ -n "$rule" ] || rule=$(nft list table inet kbuild_drain 2>/dev/null | grep dport)
  rule=${rule##*dport }
  [ -n "$rule" ] && printf 'drained=%s\n' "${rule%% *}"
}

undrained() {
  (drained "$1") 2>/dev/null && fail "connections to port $1 are still rejected"
  return 0
}

# --- copies of admin.conf --------------------------------------------------------------------------

home_of() {
  entry=$(getent passwd "$1") || fail "there is no user $1"
  entry=${entry%:*}
  printf '%s' "${entry##*:}"
}

# Whether ~USER/.kube/config is as admin.conf is: has_kubeconfig USER
has_kubeconfig() {
  home=$(home_of "$1") || exit 1
  [ "$(sha_of "$home/.kube/config")" = "$(sha_of "$kubernetes/admin.conf")" ] || fail "$home/.kube/config differs from admin.conf"
}

# Copy admin.conf to ~USER/.kube/config and keep the old one: give_kubeconfig USER TIME
give_kubeconfig() {
  home=$(home_of "$1") || exit 1
  config=$home/.kube/config
  [ -d "$home" ] || fail "$home does not exist"
  # All of it as the user: nobody's link may lead root elsewhere.
  as_user "$1" sh -c 'umask 077; mkdir -p "$1" && cat >"$1/.config.kbuild"' kbuild "$home/.kube" <"$kubernetes/admin.conf" ||
    fail "$home/.kube cannot be written"
  as_user "$1" sh -c '
    [ ! -f "$1" ] || cp -p -- "$1" "$1.$2" || exit 1
    [ ! -f "$1" ] || chmod --reference="$1" -- "$3" || exit 1
    mv -f -- "$3" "$1"' kbuild "$config" "$2" "$home/.kube/.config.kbuild" || fail "$config cannot be replaced"
}

# as_user USER WORD...
as_user() {
  name=$1
  shift
  if [ "$(id -u "$name")" = 0 ]; then
    "$@"
  else
    chroot --userspec="$(id -u "$name"):$(id -g "$name")" --groups= / "$@"
  fi
}
