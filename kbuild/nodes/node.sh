# What kbuild does on a node, as functions: `kbuild nodes` sends this file and one call of a function.
#
# A POSIX shell and coreutils are all that a node needs. Everything that kbuild keeps on a node is in
# $state, which only root may read; what a reboot may take away is in $run.
#
# Functions print `name=value` lines on standard output. On standard error the last line says why a
# function failed.
set -u
umask 077
LC_ALL=C
export LC_ALL
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
state=/var/lib/kbuild
run=/run/kbuild
# A cut connection must not end a step half way.
trap '' HUP PIPE

fail() {
  printf '%s\n' "$*" >&2
  exit 1
}

sha_of() {
  sha256sum -- "$1" 2>/dev/null | cut -c 1-64
}

# Whether a file has the sha256: has_sha FILE SHA256
has_sha() {
  [ -f "$1" ] || fail "$1 does not exist"
  [ "$(sha_of "$1")" = "$2" ] || fail "$1 does not have the sha256 $2"
}

# --- facts -------------------------------------------------------------------------------------

# facts [PATH OF KUBEADM]
facts() {
  printf 'uid=%s\n' "$(id -u)"
  printf 'time=%s\n' "$(date +%s)"
  printf 'machine=%s\n' "$(uname -m)"
  command -v gzip >/dev/null 2>&1 && printf 'gzip=yes\n'
  kubeadm=${1:-$(command -v kubeadm || true)}
  if [ -n "$kubeadm" ]; then
    target=$(readlink -f -- "$kubeadm" || true)
    printf 'asked=%s\ntarget=%s\n' "$kubeadm" "$target"
    place=$(dirname -- "$target")
    [ -d "$place" ] && printf 'free=%s\n' "$(free_kib "$place")"
    [ -d "$place" ] && [ ! -w "$place" ] && printf 'readonly=%s\n' "$place"
    if [ -f "$target" ]; then
      printf 'sha256=%s\n' "$(sha_of "$target")"
      printf 'version=%s\n' "$("$target" version -o short 2>/dev/null </dev/null)"
      owner_of "$target"
    fi
  fi
  kubelet=$(command -v kubelet || true)
  [ -n "$kubelet" ] && printf 'kubelet=%s\n' "$("$kubelet" --version 2>/dev/null </dev/null)"
  for way in "$state" /var/lib /var /; do
    [ -d "$way" ] && break
  done
  printf 'state_free=%s\n' "$(free_kib "$way")"
  [ -e /etc/kubernetes/manifests/kube-apiserver.yaml ] && printf 'control_plane=yes\n'
  busy
  generations
  unfinished
  return 0
}

free_kib() {
  df -Pk -- "$1" 2>/dev/null | tail -n 1 | awk_free
}

# The fourth column, without awk: Filesystem 1024-blocks Used Available Capacity Mounted-on
awk_free() {
  read -r _ _ _ available _ && printf '%s' "$available"
}

owner_of() {
  if command -v dpkg-query >/dev/null 2>&1; then
    package=$(dpkg-query -S "$1" 2>/dev/null | head -n 1 | cut -d : -f 1)
    if [ -n "$package" ]; then
      printf 'package=deb %s\n' "$package"
      (is_held "$package") 2>/dev/null && printf 'held=yes\n'
      return 0
    fi
  fi
  if command -v rpm >/dev/null 2>&1; then
    package=$(rpm -qf --queryformat '%{NAME}' -- "$1" 2>/dev/null) && printf 'package=rpm %s\n' "$package"
  fi
  return 0
}

# Programs that may be replacing kubeadm at this moment.
busy() {
  for each in /proc/[0-9]*/comm; do
    read -r name 2>/dev/null <"$each" || continue
    case $name in
      apt-get|apt|aptitude|dpkg|unattended-upgr|yum|dnf|rpm|zypper|kubeadm) printf 'busy=%s\n' "$name" ;;
    esac
  done
}

# --- locks and the journal -----------------------------------------------------------------------

# One lock a host, in a directory that a reboot empties. take_lock RUN OWNER
take_lock() {
  mkdir -p "$run" || fail "$run cannot be made"
  if mkdir "$run/lock" 2>/dev/null; then
    printf '%s\n' "$1" >"$run/lock/run" && printf '%s\n' "$2" >"$run/lock/owner" ||
      { rm -rf "$run/lock"; fail "$run/lock cannot be written"; }
    journal "$1" run begin
    return 0
  fi
  [ "$(cat "$run/lock/run" 2>/dev/null)" = "$1" ] && return 0
  printf 'run=%s\n' "$(cat "$run/lock/run" 2>/dev/null)"
  printf 'owner=%s\n' "$(cat "$run/lock/owner" 2>/dev/null)"
  printf 'age=%s\n' "$(($(date +%s) - $(stat -c %Y "$run/lock" 2>/dev/null || echo 0)))"
  step_runs && printf 'step=running\n'
  fail "another run of kbuild has the lock"
}

# Whether a step of the run that has the lock is still going on.
step_runs() {
  pid=$(cat "$run/lock/pid" 2>/dev/null) || return 1
  [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null && grep -q kbuild_step "/proc/$pid/cmdline" 2>/dev/null
}

# Remove the lock of a run that has ended without doing so: break_lock RUN
break_lock() {
  [ "$(cat "$run/lock/run" 2>/dev/null)" = "$1" ] || fail "another run has the lock now"
  step_runs && fail "a step of that run is still going on"
  rm -rf "$run/lock.old" && mv "$run/lock" "$run/lock.old" && rm -rf "$run/lock.old"
}

release_lock() {
  [ "$(cat "$run/lock/run" 2>/dev/null)" = "$1" ] || return 0
  journal "$1" run end
  break_lock "$1"
}

# journal RUN STEP EVENT
journal() {
  mkdir -p "$state/runs" || fail "$state cannot be made"
  printf '%s %s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$2" "$3" >>"$state/runs/$1" ||
    fail "the journal $state/runs/$1 cannot be written: no space?"
}

# The last run, if it has no end: the step that it was in.
unfinished() {
  last=$(ls -1t "$state/runs" 2>/dev/null | head -n 1)
  [ -n "$last" ] || return 0
  read_last=$(tail -n 1 "$state/runs/$last")
  case $read_last in
    *' run end') ;;
    *) printf 'unfinished=%s %s\n' "$last" "$read_last" ;;
  esac
}

# Do one step of a run that has the lock: apply RUN STEP DO CONFIRM, two calls as one word each.
apply() {
  [ "$(cat "$run/lock/run" 2>/dev/null)" = "$1" ] || fail "this run no longer has the lock"
  touch "$run/lock" && printf '%s\n' "$$" >"$run/lock/pid"
  journal "$1" "$2" begin
  (eval "$3") || { journal "$1" "$2" failed; exit 3; }
  (eval "$4") || { journal "$1" "$2" unconfirmed; exit 4; }
  journal "$1" "$2" done
  rm -f "$run/lock/pid"
}

# --- kubeadm -------------------------------------------------------------------------------------

# Print how much of an upload is there: uploaded FILE
uploaded() {
  [ -L "$1" ] && rm -f -- "$1"
  [ -f "$1" ] || : >"$1" || fail "$1 cannot be written"
  printf 'size=%s\n' "$(wc -c <"$1")"
}

# Make a program of an upload: unpack PART gzip|plain TEMPORARY SHA256
unpack() {
  rm -f -- "$3"
  case $2 in
    gzip) gzip -dc -- "$1" >"$3" || { rm -f -- "$1" "$3"; fail "the upload cannot be unpacked"; } ;;
    *) cp -- "$1" "$3" || fail "$3 cannot be written" ;;
  esac
  if [ "$(sha_of "$3")" != "$4" ]; then
    rm -f -- "$1" "$3"
    fail "what arrived does not have the sha256 $4"
  fi
  chmod 755 -- "$3" && sync && rm -f -- "$1"
}

# Whether a program is the one with this sha256 and says that it is this version.
runs_as() {
  has_sha "$1" "$2"
  said=$("$1" version -o short 2>&1 </dev/null) || fail "$1 does not run: $said"
  [ "$said" = "$3" ] || fail "$1 says that it is $said, not $3"
}

generations() {
  for each in "$state"/kubeadm/*/meta; do
    [ -f "$each" ] || continue
    id=$(basename -- "$(dirname -- "$each")")
    case $id in *.part) continue ;; esac
    printf 'generation=%s %s\n' "$id" "$(cat "$each")"
  done
}

# Whether a generation is whole: has_generation SHA256 TARGET
has_generation() {
  for each in "$state"/kubeadm/*/meta; do
    [ -f "$each" ] || continue
    case $each in *.part/meta) continue ;; esac
    read -r sha _ path <"$each"
    [ "$sha" = "$1" ] && [ "$path" = "$2" ] || continue
    [ "$(sha_of "${each%/meta}/kubeadm")" = "$1" ] && return 0
  done
  fail "no backup has the sha256 $1"
}

# Keep the kubeadm that is there: back_up TARGET SHA256 GENERATION VERSION
back_up() {
  has_sha "$1" "$2"
  new=$state/kubeadm/$3
  rm -rf "$new.part" && mkdir -p "$new.part" || fail "$new.part cannot be made"
  copy_all "$1" "$new.part/kubeadm" || { rm -rf "$new.part"; fail "$1 cannot be copied to $state: no space?"; }
  printf '%s %s %s\n' "$2" "${4:-unknown}" "$1" >"$new.part/meta" || { rm -rf "$new.part"; fail "$new.part cannot be written"; }
  [ "$(sha_of "$new.part/kubeadm")" = "$2" ] || { rm -rf "$new.part"; fail "the backup differs from $1"; }
  sync && mv "$new.part" "$new"
}

# Copy a file with its owner, mode, SELinux context and extended attributes.
copy_all() {
  cp --preserve=all --no-dereference -- "$1" "$2" 2>/dev/null || cp -p -- "$1" "$2"
}

# Put a program in the place of another, at once: swap TEMPORARY TARGET
swap() {
  [ -f "$1" ] || fail "$1 does not exist"
  chown 0:0 -- "$1"
  chmod 755 -- "$1"
  if [ -f "$2" ]; then
    chown --reference="$2" -- "$1" 2>/dev/null
    chmod --reference="$2" -- "$1" 2>/dev/null
    chcon --reference="$2" -- "$1" 2>/dev/null
  fi
  mv -f -- "$1" "$2" && sync || fail "$2 cannot be replaced"
}

# Bring back a backup: restore GENERATION TARGET SHA256
restore() {
  from=$state/kubeadm/$1/kubeadm
  [ "$(sha_of "$from")" = "$3" ] || fail "the backup $1 is damaged: it does not have the sha256 $3"
  temporary=$(dirname -- "$2")/.kubeadm.kbuild-restore
  rm -f -- "$temporary"
  copy_all "$from" "$temporary" || { rm -f -- "$temporary"; fail "$2 cannot be written: no space?"; }
  [ "$(sha_of "$temporary")" = "$3" ] || { rm -f -- "$temporary"; fail "the copy of the backup differs"; }
  mv -f -- "$temporary" "$2" && sync || fail "$2 cannot be replaced"
}

# As restore, with whichever generation has the sha256: bring_back SHA256 TARGET
bring_back() {
  for each in "$state"/kubeadm/*/meta; do
    [ -f "$each" ] || continue
    read -r sha _ path <"$each"
    [ "$sha" = "$1" ] && [ "$path" = "$2" ] || continue
    restore "$(basename -- "${each%/meta}")" "$2" "$1"
    return 0
  done
  fail "no backup has the sha256 $1"
}

forget() {
  rm -f -- "$@"
}

nothing() {
  :
}

# --- packages --------------------------------------------------------------------------------------

is_held() {
  apt-mark showhold 2>/dev/null | grep -qx -- "$1" || fail "the package $1 is not held"
}

hold() {
  apt-mark hold -- "$1" >/dev/null || fail "apt-mark cannot hold $1"
}

unhold() {
  apt-mark unhold -- "$1" >/dev/null || fail "apt-mark cannot release $1"
}
