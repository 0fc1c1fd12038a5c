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
# What changes the output or the options of programs; grep had GREP_OPTIONS until 2.21.
unset POSIXLY_CORRECT QUOTING_STYLE GREP_OPTIONS CDPATH
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# Tests put a directory here.
root=
state=$root/var/lib/kbuild
run=$root/run/kbuild
# A cut connection must not end a step half way.
trap '' HUP PIPE

# Only the last line is the reason, so that it must be one line.
fail() {
  printf '%s\n' "$(printf '%s' "$*" | tr '\n' ' ')" >&2
  exit 1
}

# Print a fact as one line, whatever is in it: one NAME VALUE
one() {
  printf '%s=%s\n' "$1" "$(printf '%s' "$2" | tr '[:cntrl:]' '?')"
}

# Run a program, and kill it after some seconds: within SECONDS PROGRAM ARGUMENT...
within() {
  seconds=$1
  shift
  if command -v timeout >/dev/null 2>&1; then
    timeout -s KILL "$seconds" "$@"
    return
  fi
  "$@" &
  child=$!
  { sleep "$seconds" && kill -s KILL "$child"; } >/dev/null 2>&1 &
  killer=$!
  wait "$child"
  code=$?
  kill "$killer" 2>/dev/null
  return "$code"
}

# What a program prints of its version. A hostile one prints without end, or never ends.
version_of() {
  program=$1
  shift
  within 30 "$program" "$@" 2>/dev/null </dev/null | head -c 200
}

# The 22nd field of /proc/PID/stat; the second one may have blanks and brackets in it.
start_of() {
  # shellcheck disable=SC2086 # the fields are to be split
  set -- ${1##*) }
  shift 19
  printf '%s' "$1"
}

# The sha256 of a file, or nothing. Most nodes have openssl, and without its code coreutils needs four
# times as long, 0.2 s for each look at a kubeadm.
sha_of() {
  sum=$(openssl dgst -sha256 -r 2>/dev/null <"$1") 2>/dev/null
  sum=${sum%% *}
  case $sum in *[!0-9a-f]*) sum= ;; esac
  if [ "${#sum}" = 64 ]; then printf '%s' "$sum"; else sha256sum -- "$1" 2>/dev/null | cut -c 1-64; fi
}

# Whether a file has the sha256: has_sha FILE SHA256
has_sha() {
  [ -f "$1" ] || fail "$1 does not exist"
  [ "$(sha_of "$1")" = "$2" ] || fail "$1 does not have the sha256 $2"
}

# Whether a file is still what the plan was made for; no sha256 stands for no file: is_still FILE SHA256
is_still() {
  if [ -z "$2" ]; then
    [ ! -e "$1" ] || fail "somebody has made $1 meanwhile, so it is left as it is"
  else
    [ -f "$1" ] && [ "$(sha_of "$1")" = "$2" ] ||
      fail "somebody has changed $1 meanwhile, so it is left as it is"
  fi
}

# Write files to the disk; an old sync writes all of them.
flush() {
  sync -- "$@" 2>/dev/null || sync
}

# --- facts -------------------------------------------------------------------------------------

# facts [PATH OF KUBEADM]
facts() {
  one uid "$(id -u)"
  one time "$(date +%s)"
  one machine "$(uname -m)"
  # Two names may lead to one machine. That of the host counts, too: copies of a virtual machine may share the rest.
  boot=$(cat "$root/proc/sys/kernel/random/boot_id" 2>/dev/null) &&
    one identity "$boot $(readlink /proc/self/ns/mnt) $(uname -n)"
  command -v gzip >/dev/null 2>&1 && printf 'gzip=yes\n'
  kubeadm=${1:-$(command -v kubeadm || true)}
  [ -z "$kubeadm" ] || facts_of_kubeadm "$kubeadm"
  kubelet=$(command -v kubelet || true)
  [ -z "$kubelet" ] || one kubelet "$(version_of "$kubelet" --version)"
  for way in "$state" "$root/var/lib" "$root/var" /; do
    [ -d "$way" ] && break
  done
  one state_free "$(free_kib "$way")"
  # One of them may have been moved away, which stops the component.
  for each in kube-apiserver kube-controller-manager; do
    [ -e "$root/etc/kubernetes/manifests/$each.yaml" ] && printf 'control_plane=yes\n'
  done
  [ -z "$(locker)" ] || printf 'versionlock=yes\n'
  busy
  generations
  unfinished
  return 0
}

facts_of_kubeadm() {
  target=$(readlink -f -- "$1" || true)
  one asked "$1"
  one target "$target"
  place=$(dirname -- "${target:-$1}")
  if [ ! -d "$place" ]; then
    one problem "its directory $place does not exist"
    return 0
  fi
  one free "$(free_kib "$place")"
  [ -w "$place" ] || one readonly "$place"
  for each in "$place"/.kubeadm.kbuild-*; do
    [ -e "$each" ] && one leftover "${each##*/}"
  done
  if [ -f "$target" ]; then
    sha=$(sha_of "$target")
    one sha256 "$sha"
    [ ! -f "$state/kubeadm/issues/$sha" ] || one issues "$(head -n 1 "$state/kubeadm/issues/$sha")"
    [ -x "$target" ] || one problem "$target is not executable"
    one version "$(version_of "$target" version -o short)"
    owner_of "$target"
    others_than "$target"
  elif [ -e "$target" ]; then
    one problem "$target is not a file"
  fi
}

# Print other kubeadms on the PATH: others_than FILE
others_than() {
  printf '%s\n' "$PATH" | tr ':' '\n' | while IFS= read -r place; do
    [ -f "$place/kubeadm" ] && [ -x "$place/kubeadm" ] || continue
    [ "$(readlink -f -- "$place/kubeadm")" = "$1" ] || one other "$place/kubeadm"
  done
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
      one package "deb $package"
      (is_held deb "$package") 2>/dev/null && printf 'held=yes\n'
      return 0
    fi
  fi
  command -v rpm >/dev/null 2>&1 || return 0
  # rpm waits for ever if its database is damaged. Several packages may own a file.
  packages=$(within 30 rpm -qf --queryformat '%{NAME}\n' -- "$1" 2>/dev/null) || return 0
  package=$(printf '%s\n' "$packages" | head -n 1)
  one package "rpm $package"
  (is_held rpm "$package") 2>/dev/null && printf 'held=yes\n'
  is_excluded "$package" && printf 'excluded=yes\n'
}

# Programs that may be replacing kubeadm at this moment. Those in containers do not: they have
# another file system.
busy() {
  here=$(readlink /proc/self/ns/mnt || true)
  for each in "$root"/proc/[0-9]*/comm; do
    read -r name 2>/dev/null <"$each" || continue
    case $name in
      apt-get|apt|aptitude|dpkg|yum|dnf|dnf5|rpm|zypper|kubeadm) ;;
      *) continue ;;
    esac
    there=$(readlink "${each%/comm}/ns/mnt" 2>/dev/null || true)
    [ "$there" = "$here" ] && one busy "$name"
  done
  for each in var/lib/dpkg/lock-frontend var/lib/dpkg/lock var/lib/rpm/.rpm.lock; do
    # Fedora and openSUSE keep the database of rpm below /usr, and a link in /var.
    [ -f "$root/$each" ] && has_lock "$(readlink -f -- "$root/$each")"
  done
}

# Print who has locked a file. unattended-upgrades, say, always runs, but seldom has the lock.
has_lock() {
  inode=$(stat -c %i -- "$1")
  # If other locks come or go while the list is read, a line is passed over or comes twice.
  for _ in 1 2; do cat /proc/locks; done | sort -u -k 2 | while read -r _ _ _ kind holder file _; do
    case $kind:$file in "WRITE:"*":$inode") ;; *) continue ;; esac
    for open in /proc/"$holder"/fd/*; do
      [ "$(readlink "$open" 2>/dev/null)" = "$1" ] || continue
      one busy "$(cat "/proc/$holder/comm" 2>/dev/null)"
      break
    done
  done
}

# --- certificates --------------------------------------------------------------------------------

# Of PEM, keep certificates: without_keys [PUBLIC]. A private key becomes a block that says that there
# is one, and has its public half, and all else that begins a block is withheld too. A certificate that
# does not end, does not begin with the two SEQUENCEs of one, or is followed by something in its block
# loses its content.
without_keys() {
  half=${1:+$1\\
}
  { cat; printf '\n#\n'; } | LC_ALL=C sed -n '
    /^-----BEGIN /{
      x
      /./s/.*/-----BEGIN CERTIFICATE-----/p
      s/.*//
      x
    }
    /^-----BEGIN CERTIFICATE-----/{
      s/.*/-----BEGIN CERTIFICATE-----/
      h
      d
    }
    /^-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----/{
      s|.*|-----BEGIN WITHHELD PRIVATE KEY-----\
'"$half"'-----END WITHHELD PRIVATE KEY-----|p
      d
    }
    /^-----BEGIN /{
      s/.*/-----BEGIN WITHHELD-----\
-----END WITHHELD-----/p
      d
    }
    /^-----END CERTIFICATE-----/{
      s/.*/-----END CERTIFICATE-----/
      H
      s/.*//
      x
      /^-----BEGIN CERTIFICATE-----\nMII...C/{
        p
        d
      }
      /^-----BEGIN/s/.*/-----BEGIN CERTIFICATE-----/p
      d
    }
    /^[A-Za-z0-9+/=]*[[:space:]]*$/{
      x
      /./{
        x
        s/[[:space:]]*$//
        H
        d
      }
      x
      s/.*//
      x
      d
    }
    x
    /./s/.*/-----BEGIN CERTIFICATE-----/p
    s/.*//
    x
  ' | exact
}

# Keep certificates that are as long as they say themselves: a key may follow one that lost its end.
exact() {
  begin='-----BEGIN CERTIFICATE-----' end='-----END CERTIFICATE-----'
  is_open=
  while IFS= read -r line; do
    case $is_open$line in
      "yes$end")
        is_open=
        printf '%s\n' "$begin"
        is_exact "$text" "$size" && printf '%s%s\n' "$text" "$end"
        ;;
      yes-*)
        printf '%s\n' "$begin"
        text= size=0
        [ "$line" = "$begin" ] && continue
        is_open=
        printf '%s\n' "$line"
        ;;
      yes*)
        size=$((size + ${#line}))
        [ "$size" -gt "$longest" ] || text="$text$line
"
        ;;
      "$begin") is_open=yes text= size=0 ;;
      *) printf '%s\n' "$line" ;;
    esac
  done
  [ -z "$is_open" ] || printf '%s\n' "$begin"
}
longest=21852 # digits of base64, as MII says that a certificate has less than 16 KiB

# Whether base64 is as long as its first bytes say, 30 82 and the length of the rest: is_exact TEXT SIZE
is_exact() {
  [ "$2" -le "$longest" ] || return 1
  rest=${1#MII}
  first=$(digit "$rest")
  rest=${rest#?}
  second=$(digit "$rest")
  rest=${rest#?}
  third=$(digit "$rest")
  [ "$2" -eq "$(((first * 256 + second * 4 + third / 16 + 6) / 3 * 4))" ]
}

# The value of the first digit of base64: digit TEXT
digit() {
  before=ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/
  before=${before%%"${1%"${1#?}"}"*}
  printf '%s' "${#before}"
}

# --- locks and the journal -----------------------------------------------------------------------

# One lock a host, in a directory that a reboot empties. take_lock RUN OWNER
take_lock() {
  for _ in 1 2; do # the last run may be removing $run
    mkdir -p "$run" 2>/dev/null && mkdir "$run/lock" 2>/dev/null && { own_lock "$@"; return 0; }
    [ -d "$run/lock" ] && break
  done
  [ -d "$run/lock" ] || fail "the lock $run/lock cannot be made: $(mkdir -p "$run/lock" 2>&1)"
  [ "$(has_the_lock)" = "$1" ] && return 0
  who_has_the_lock
  fail "another run of kbuild has the lock"
}

who_has_the_lock() {
  [ -d "$run/lock" ] || return 0
  one run "$(has_the_lock)"
  one owner "$(cat "$run/lock/owner" 2>/dev/null)"
  one age "$(age_of "$run/lock")"
  step_runs && printf 'step=running\n'
  return 0
}

own_lock() {
  { printf '%s\n' "$1" >"$run/lock/run" && printf '%s\n' "$2" >"$run/lock/owner"; } 2>/dev/null ||
    { rm -rf "$run/lock"; fail "the lock $run/lock cannot be written: no space?"; }
  (journal "$1" run begin) || { rm -rf "$run/lock"; exit 1; }
}

has_the_lock() {
  cat "$run/lock/run" 2>/dev/null
}

age_of() {
  printf '%s' "$(($(date +%s) - $(stat -c %Y "$1" 2>/dev/null || date +%s)))"
}

# Whether a step of the run that has the lock is still going on.
step_runs() {
  pid=$(cat "$run/lock/pid" 2>/dev/null) || return 1
  [ -n "$pid" ] && [ "$pid" != "$$" ] && grep -q kbuild_step "/proc/$pid/cmdline" 2>/dev/null
}

# Have the lock instead of a run that has ended without giving it back: take_over RUN OWNER OTHER
take_over() {
  [ "$(has_the_lock)" = "$1" ] && return 0
  break_lock "$3"
  take_lock "$1" "$2"
}

# Only one process may ever remove the lock of a run: the next lock must not be removed with it.
break_lock() {
  broken=$run/broken.$1
  mkdir "$broken" 2>/dev/null || [ "$(age_of "$broken")" -gt 60 ] || fail "another run removes that lock"
  [ "$(has_the_lock)" = "$1" ] || { rm -rf "$broken"; fail "another run has the lock now"; }
  step_runs && { rm -rf "$broken"; fail "a step of that run is still going on"; }
  mv "$run/lock" "$broken/" && rm -rf "$broken"
}

release_lock() {
  [ "$(has_the_lock)" = "$1" ] || return 0
  (journal "$1" run end)
  break_lock "$1"
  rmdir "$run" 2>/dev/null
  return 0
}

# journal RUN STEP EVENT
journal() {
  mkdir -p "$state/runs" 2>/dev/null && chmod 700 "$state" || fail "$state/runs cannot be made: no space?"
  { printf '%s %s %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$2" "$3" >>"$state/runs/$1"; } 2>/dev/null ||
    fail "the journal $state/runs/$1 cannot be written: no space?"
}

# The last run, if it has no end: the step that it was in. Names of runs begin with their time.
unfinished() {
  last=$(ls -1 "$state/runs" 2>/dev/null | tail -n 1)
  [ -n "$last" ] || return 0
  read_last=$(tail -n 1 "$state/runs/$last")
  case $read_last in
    *' run end') ;;
    *) one unfinished "$last $read_last" ;;
  esac
}

# Do one step of a run that has the lock: apply RUN STEP CHECK DO CONFIRM, three calls as one word
# each. It may be repeated after a cut connection, so it waits for itself.
apply() {
  begin_step "$1"
  if (eval "$3") >/dev/null 2>&1; then
    rm -f "$run/lock/pid"
    return 0
  fi
  journal "$1" "$2" begin
  (eval "$4") || end_step "$1" "$2" failed
  (eval "$5") || end_step "$1" "$2" unconfirmed
  (end_step "$1" "$2" "done") || true
}

# Undo one step of a run that has the lock: take_back RUN STEP UNDO
take_back() {
  begin_step "$1"
  (eval "$3") || end_step "$1" "$2" 'not undone'
  (end_step "$1" "$2" undone) || true
}

begin_step() {
  [ -d "$run/lock" ] || { printf 'lock=none\n'; fail "the lock is gone: was the host restarted?"; }
  [ "$(has_the_lock)" = "$1" ] || fail "another run has the lock now"
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
    step_runs || break
    sleep 1
  done
  step_runs && fail "an earlier step is still going on"
  touch "$run/lock" && { printf '%s\n' "$$" >"$run/lock/pid"; } 2>/dev/null ||
    fail "the lock $run/lock cannot be written: no space?"
}

end_step() {
  rm -f "$run/lock/pid"
  # A full disk must not hide why the step failed.
  (journal "$1" "$2" "$3") 2>/dev/null
  exit 3
}

# --- kubeadm -------------------------------------------------------------------------------------

# Print how much of an upload is there: uploaded FILE
uploaded() {
  [ -L "$1" ] && rm -f -- "$1"
  [ -f "$1" ] || { true >"$1"; } 2>/dev/null || fail "$1 cannot be written: $(touch -- "$1" 2>&1)"
  printf 'size=%s\n' "$(($(wc -c <"$1")))"
}

# Make a program of an upload: unpack PART gzip|plain TEMPORARY SHA256
unpack() {
  rm -f -- "$3"
  [ -f "$1" ] || fail "the upload $1 is gone"
  case $2 in
    gzip) why=$({ gzip -dc -- "$1" >"$3"; } 2>&1) ;;
    *) why=$(cp -- "$1" "$3" 2>&1) ;;
  esac || { rm -f -- "$1" "$3"; fail "the upload cannot be unpacked: $why"; }
  if [ "$(sha_of "$3")" != "$4" ]; then
    rm -f -- "$1" "$3"
    fail "what arrived does not have the sha256 $4: it was damaged, or the release was changed meanwhile"
  fi
  chmod -- 755 "$3" && flush "$3" && rm -f -- "$1"
}

# Whether a program is the one with this sha256 and says that it is this version.
runs_as() {
  has_sha "$1" "$2"
  says "$1" "$3"
}

# Whether a program runs and says that it is this version: says PROGRAM VERSION
says() {
  said=$({ within 30 "$1" version -o short 2>&1 </dev/null; printf ' (exit code %s)' "$?"; } |
    head -c 400 | tr '[:cntrl:]' ' ')
  case $said in
    "$2  (exit code 0)") ;;
    *'(exit code 126)'*) fail "$1 cannot be executed; is the file system mounted with noexec? It said: $said" ;;
    *'(exit code 137)'*) fail "$1 does not end, or was killed: $said" ;;
    *'(exit code 0)'*) fail "$1 says that it is $said, not $2" ;;
    *) fail "$1 does not run: $said" ;;
  esac
}

# Whether a program is there to be put in its place, or is there already:
# is_ready TEMPORARY TARGET SHA256 VERSION
is_ready() {
  if [ "$(sha_of "$2")" = "$3" ]; then runs_as "$2" "$3" "$4"; else runs_as "$1" "$3" "$4"; fi
}

# Record what a kubeadm issues: record SHA256 CA-YEARS LEAF-YEARS VERSION TARGET
record() {
  mkdir -p "$state/kubeadm/issues" 2>/dev/null || fail "$state/kubeadm/issues cannot be made: no space?"
  { printf '%s\n' "$*" >"$state/kubeadm/issues/$1.part"; } 2>/dev/null ||
    fail "$state/kubeadm/issues/$1 cannot be written: no space?"
  flush "$state/kubeadm/issues/$1.part"
  mv -f -- "$state/kubeadm/issues/$1.part" "$state/kubeadm/issues/$1" || fail "$state/kubeadm/issues/$1 cannot be written"
}

is_recorded() {
  [ "$(cat "$state/kubeadm/issues/$1" 2>/dev/null)" = "$*" ] || fail "it is not recorded what $1 issues"
}

generations() {
  for each in "$state"/kubeadm/*/meta; do
    [ -f "$each" ] || continue
    id=$(basename -- "$(dirname -- "$each")")
    case $id in *.part) continue ;; esac
    one generation "$id $(head -n 1 "$each")"
  done
  [ ! -f "$state/kubeadm/restored" ] || one restored "$(head -n 1 "$state/kubeadm/restored")"
}

# Print the whole generations of a file: generations_of SHA256 TARGET
generations_of() {
  for each in "$state"/kubeadm/*/meta; do
    [ -f "$each" ] || continue
    case $each in *.part/meta) continue ;; esac
    read -r sha _ path <"$each"
    [ "$sha" = "$1" ] && [ "$path" = "$2" ] || continue
    [ "$(sha_of "${each%/meta}/kubeadm")" = "$1" ] && basename -- "${each%/meta}"
  done
}

# Whether a generation is whole: has_generation SHA256 TARGET
has_generation() {
  [ -n "$(generations_of "$1" "$2")" ] || fail "no whole backup has the sha256 $1"
}

# Keep the kubeadm that is there: back_up TARGET SHA256 GENERATION VERSION
back_up() {
  is_still "$1" "$2"
  new=$state/kubeadm/$3
  while [ -e "$new" ]; do # damaged, or it would do
    new=$new.again
  done
  rm -rf "$new.part" && mkdir -p "$new.part" 2>/dev/null || fail "$new.part cannot be made: no space?"
  why=$(copy_all "$1" "$new.part/kubeadm" 2>&1) || no_backup "$1 cannot be copied to $state: $why"
  { printf '%s %s %s\n' "$2" "${4:-unknown}" "$1" >"$new.part/meta"; } 2>/dev/null ||
    no_backup "$new.part/meta cannot be written: no space?"
  [ "$(sha_of "$new.part/kubeadm")" = "$2" ] || no_backup "the backup differs from $1"
  flush "$new.part/kubeadm" "$new.part/meta"
  mv "$new.part" "$new" || no_backup "the backup $new cannot be made"
  flush "$state/kubeadm"
}

# Keep that there is no kubeadm: keep_none TARGET GENERATION
keep_none() {
  is_still "$1" ''
  new=$state/kubeadm/$2
  rm -rf "$new.part" && mkdir -p "$new.part" 2>/dev/null || fail "$new.part cannot be made: no space?"
  { printf 'none none %s\n' "$1" >"$new.part/meta"; } 2>/dev/null || no_backup "$new.part/meta cannot be written: no space?"
  flush "$new.part/meta"
  mv "$new.part" "$new" || no_backup "the backup $new cannot be made"
}

# Whether it is kept that there was no kubeadm: has_kept_none TARGET
has_kept_none() {
  for each in "$state"/kubeadm/*/meta; do
    [ "$(head -n 1 "$each" 2>/dev/null)" = "none none $1" ] && return 0
  done
  fail "it is not kept that there was no $1"
}

no_backup() {
  rm -rf "$new.part"
  fail "$1"
}

# Copy a file with its owner, mode, SELinux context and extended attributes.
copy_all() {
  cp --preserve=all --no-dereference -- "$1" "$2" 2>/dev/null || cp -p -- "$1" "$2"
}

# Give a file the owner, mode, SELinux context and extended attributes of another: like FILE OTHER
like() {
  chown -- "$(stat -c %u:%g -- "$2")" "$1" && chmod -- "$(stat -c %a -- "$2")" "$1" ||
    fail "$1 cannot have the owner and the mode of $2"
  chcon --reference="$2" -- "$1" 2>/dev/null
  cp --attributes-only --preserve=xattr -- "$2" "$1" 2>/dev/null
  return 0
}

# Put a program in the place of another, at once: swap TEMPORARY TARGET OLD NEW, with their sha256
swap() {
  is_still "$2" "$3"
  if [ -n "$3" ]; then
    like "$1" "$2"
  else
    chown -- 0:0 "$1" && chmod -- 755 "$1" || fail "$1 cannot belong to root"
  fi
  has_sha "$1" "$4"
  # What a rollback brought back, it brought back also after this is undone.
  [ "$(cat "$state/kubeadm/restored" 2>/dev/null)" != "$4 $2" ] || rm -f -- "$state/kubeadm/restored"
  put "$1" "$2" "$3"
  rm -f -- "$1.part" # which an earlier run has unpacked, and did not live to remove
  [ -n "$3" ] || ! command -v restorecon >/dev/null 2>&1 || restorecon -- "$2" 2>/dev/null
  return 0
}

# Rename a file to its place, unless somebody has changed what is there: put TEMPORARY TARGET SHA256
put() {
  flush "$1"
  is_still "$2" "$3"
  why=$(mv -f -- "$1" "$2" 2>&1) || fail "$2 cannot be replaced: $why"
  flush "$(dirname -- "$2")"
}

# Bring back a backup: restore GENERATION TARGET SHA256 NOW, where NOW is the sha256 of what is there
restore() {
  from=$state/kubeadm/$1/kubeadm
  [ "$(sha_of "$from")" = "$3" ] ||
    fail "the backup $1 is damaged: it does not have the sha256 $3; choose another with --to"
  is_still "$2" "$4"
  temporary=$(dirname -- "$2")/.kubeadm.kbuild-restore
  rm -f -- "$temporary"
  why=$(copy_all "$from" "$temporary" 2>&1) || { rm -f -- "$temporary"; fail "$2 cannot be written: $why"; }
  [ "$(sha_of "$temporary")" = "$3" ] || { rm -f -- "$temporary"; fail "the copy of the backup differs"; }
  (put "$temporary" "$2" "$4") || { rm -f -- "$temporary"; exit 1; }
}

# Restore a backup because somebody asks for it: roll_back GENERATION TARGET SHA256 NOW
# What is noted first lets the same command, given again, leave the node as it is.
roll_back() {
  { printf '%s %s\n' "$3" "$2" >"$state/kubeadm/restored"; } 2>/dev/null ||
    fail "$state/kubeadm/restored cannot be written: no space?"
  restore "$@"
}

# Undo a replacement with the backup of what was there: bring_back SHA256 TARGET NOW
bring_back() {
  [ "$(sha_of "$2")" = "$1" ] && return 0
  is_still "$2" "$3"
  whole=$(generations_of "$1" "$2" | tail -n 1)
  [ -n "$whole" ] || fail "no whole backup has the sha256 $1"
  restore "$whole" "$2" "$1" "$3"
}

# Undo the installation where nothing was before: take_away TARGET NOW
take_away() {
  [ -e "$1" ] || return 0
  is_still "$1" "$2"
  rm -f -- "$1"
}

# Go back to the state before the first installation: remove_ours TARGET SHA256
remove_ours() {
  is_still "$1" "$2"
  { printf 'none %s\n' "$1" >"$state/kubeadm/restored"; } 2>/dev/null ||
    fail "$state/kubeadm/restored cannot be written: no space?"
  take_away "$@"
}

has_none() {
  [ ! -e "$1" ] || fail "$1 is there"
}

# Whether runs that did not end have left nothing but the upload of this one: no_leftovers DIRECTORY KEPT
no_leftovers() {
  for each in "$1"/.kubeadm.kbuild-*; do
    [ -e "$each" ] || continue
    case ${each##*/} in
      "$2"|"$2.part") continue ;;
    esac
    fail "$each is left"
  done
}

forget_leftovers() {
  for each in "$1"/.kubeadm.kbuild-*; do
    case ${each##*/} in
      "$2"|"$2.part") continue ;;
    esac
    rm -f -- "$each"
  done
}

forget() {
  rm -f -- "$@"
}

nothing() {
  :
}

# --- packages --------------------------------------------------------------------------------------

# The functions get the kind of the package, deb or rpm, and its name.

is_held() {
  case $1 in
    deb) apt-mark showhold 2>/dev/null | grep -qx -- "$2" ;;
    *) [ -n "$(locker)" ] && cat "$root"/etc/yum/pluginconf.d/versionlock.list "$root"/etc/dnf/plugins/versionlock.list \
      "$root"/etc/dnf/versionlock.toml 2>/dev/null |
      grep -qE "^([0-9]+:)?$2-[0-9]|^name *= *\"$2\"" ;;
  esac || fail "the package $2 is not held"
}

# The program that locks versions, if there is one: dnf or yum with its plugin, or dnf5, which needs none.
# CentOS 7 may have a dnf without the plugin beside its yum.
locker() {
  if has_plugin etc/dnf/plugins; then
    printf dnf
  elif command -v dnf5 >/dev/null 2>&1; then
    printf dnf5
  elif has_plugin etc/yum/pluginconf.d; then
    printf yum
  fi
}

# Whether the plugin versionlock is there and not disabled: has_plugin DIRECTORY
has_plugin() {
  [ -e "$root/$1/versionlock.conf" ] &&
    ! grep -Eiq '^enabled *[=:] *(0|no|false|off)' "$root/$1/versionlock.conf"
}

# Lock or release a version, with the packages that are installed: repositories may not be reachable.
# lock_version add|delete PACKAGE
lock_version() {
  within 120 "$(locker)" -q --disablerepo='*' versionlock "$1" "$2" 2>&1 </dev/null
}

# Whether yum and dnf leave a package out because of exclude=, which the installation guide of Kubernetes
# has for its repository.
is_excluded() {
  [ -n "$(excludes | tr ',[:blank:]' '\n' |
    while read -r pattern; do
      # shellcheck disable=SC2254 # it is a pattern
      case $1 in $pattern) printf 'yes\n' ;; esac
    done)" ]
}

# Print what yum and dnf leave out: of [main], which is in their own files only, and of repositories that
# are enabled.
excludes() {
  for each in "$root/etc/yum.conf" "$root/etc/dnf/dnf.conf" "$root"/etc/yum.repos.d/*.repo; do
    [ -f "$each" ] || continue
    # Indented lines go on with the value before them.
    { sed '/^[#;]/d' "$each" && printf '\n[end]\n'; } |
      sed -e :more -e '$!N;s/\n[[:blank:]]\{1,\}/ /;t more' -e 'P;D' | excludes_of "$each"
  done
}

excludes_of() {
  found='' enabled=0
  while IFS= read -r line; do
    value=${line#*[=:]}
    case ${line%%[=:[:blank:]]*} in
      '['*)
        [ "$enabled" = 0 ] || printf '%s\n' "$found"
        found='' enabled=1
        case $line:$1 in '[main]'*.repo) enabled=0 ;; esac
        ;;
      exclude|excludepkgs) found="$found $value" ;;
      enabled) case $(printf '%s' "$value" | tr -d '[:blank:]' | tr '[:upper:]' '[:lower:]') in
        0|no|false|off) enabled=0 ;;
        *) enabled=1 ;;
      esac ;;
    esac
  done
}

hold() {
  case $1 in
    deb) why=$(within 120 apt-mark hold -- "$2" 2>&1 </dev/null) ;;
    *) why=$(lock_version add "$2") ;;
  esac || fail "the package $2 cannot be held: $why"
}

unhold() {
  (is_held "$@") 2>/dev/null || return 0 # to hold it has failed
  case $1 in
    deb) why=$(within 120 apt-mark unhold -- "$2" 2>&1 </dev/null) ;;
    *) why=$(lock_version delete "$2") ;;
  esac || fail "the package $2 cannot be released: $why"
}
