#!/bin/sh
# Run one node: a Debian with systemd as process 1 in namespaces and cgroups of its own, on an overlay
# of a root file system that all nodes share. A reboot in the node starts it again, as a machine does.
#
#   STATE/node.sh run STATE LAB NAME ADDRESS GATEWAY
#   STATE/node.sh balance STATE LAB
#
# STATE/root is the root file system, STATE/images the /var/lib/docker that a node begins with, and
# STATE/NAME the node's folder: upper/ and work/ of its overlay, docker/, init.pid and console.log.
# STATE/net is the network namespace with the bridge br0, LAB a cgroup in every hierarchy. What this
# mounts and links lives in namespaces, and ends with them; all that it starts is in the cgroup.
set -eu

stage=$1 state=$2 lab=$3 name=${4-} address=${5-} gateway=${6-}
root=$(readlink -f "$state/root")
here=$state/$name

groups=/sys/fs/cgroup

# Print the folder of every hierarchy of cgroups. With version 2 alone there is one.
hierarchies() {
  if [ -e "$groups/cgroup.controllers" ]; then
    echo "$groups"
  else
    for folder in "$groups"/*/; do
      [ -L "${folder%/}" ] || [ ! -e "$folder/tasks" ] || echo "${folder%/}"
    done
  fi
}

# Move this process into a cgroup of every hierarchy.
enter() {
  for folder in $(hierarchies); do
    path=$folder
    for part in $(echo "$1" | tr / ' '); do
      above=$path path=$path/$part
      mkdir -p "$path"
      if [ -e "$above/cgroup.subtree_control" ]; then  # version 2
        for each in $(cat "$above/cgroup.controllers"); do
          echo "+$each" >"$above/cgroup.subtree_control" || true
        done
      fi
      for file in cpuset.cpus cpuset.mems; do  # empty in a new cgroup, and then it takes no process
        [ ! -e "$folder/tasks" ] || [ ! -e "$path/$file" ] || cat "$above/$file" >"$path/$file"
      done
    done
    echo $$ >"$path/cgroup.procs"
  done
}

# Stay as long as the node does. The kernel ends process 1 with SIGHUP for a reboot.
run() {
  enter "$lab/supervisor"
  if [ ! -e "$here/docker" ]; then
    rm -rf "$here/docker.new"
    mkdir "$here/docker.new"
    for each in "$state"/images/*; do
      case $each in
        */overlay2) cp -al "$each" "$here/docker.new" || cp -a "$each" "$here/docker.new" ;;  # only read
        *) cp -a "$each" "$here/docker.new" ;;
      esac
    done
    mv "$here/docker.new" "$here/docker"
  fi
  while :; do
    status=0
    unshare --net --mount --uts --ipc "$0" prepare "$@" || status=$?
    [ "$status" -eq 129 ] || exit "$status"
  done
}

# The load balancer, in the network namespace LAB and mounts of its own.
balance() {
  enter "$lab/supervisor"
  mount --bind "$state" "$root/mnt"
  exec chroot "$root" /usr/sbin/haproxy -db -f /mnt/haproxy.cfg
}

# In new namespaces, but still with the machine's processes: the network and the file system.
prepare() {
  enter "$lab/$name"
  hostname "$name"
  outside link del "ve-$name" 2>/dev/null || true
  outside link add "ve-$name" type veth peer name eth0 netns $$
  outside link set "ve-$name" master br0 up
  ip link set lo up
  ip addr add "$address/24" dev eth0
  ip link set eth0 up
  ip route add default via "$gateway"

  mkdir -p "$here/upper" "$here/work" "$here/mnt"
  # volatile: nothing is lost but time if the machine itself goes down. The overlay refuses a second
  # mount after one that was not ended in order, because it cannot tell.
  rm -rf "$here/work/work/incompat"
  mount -t overlay -o "volatile,lowerdir=$root,upperdir=$here/upper,workdir=$here/work" node "$here/mnt"
  mount --bind "$here/docker" "$here/mnt/var/lib/docker"  # no overlay on an overlay
  exec unshare --cgroup --pid --fork "$0" boot "$@"
}

outside() {
  nsenter "--net=$state/net" ip "$@"
}

# In the process that becomes process 1.
boot() {
  read -r pid _ </proc/self/stat  # of the machine, whose /proc this still is
  echo "$pid" >"$here/init.pid"
  cd "$here/mnt"
  mount -t proc proc proc
  quiet_sysctls
  mount -t sysfs -o ro sysfs sys
  mount_cgroups
  make_devices
  mount -t tmpfs -o mode=755 tmpfs run
  mkdir -p .old
  pivot_root . .old
  exec >/dev/null 2>&1 </dev/null
  umount -l /.old
  mount --make-rshared /
  exec env -i container=kbuild PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd
}

# kubelet sets these, and they belong to the whole machine: give it files of the node's own.
quiet_sysctls() {
  mkdir -p .sysctl
  mount -t tmpfs tmpfs .sysctl
  while read -r file value; do
    own=.sysctl/$(echo "$file" | tr / .)
    echo "$value" >"$own"
    mount --bind "$own" "proc/sys/$file"
  done <<END
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
END
  umount -l .sysctl
}

mount_cgroups() {
  if [ -e "$groups/cgroup.controllers" ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    return
  fi
  mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
  while IFS=: read -r _ controllers _; do
    case $controllers in
      '') continue ;;  # version 2, beside version 1
      name=*) folder=${controllers#name=} options=none,$controllers ;;
      *) folder=$controllers options=$controllers ;;
    esac
    mkdir "sys/fs/cgroup/$folder"
    mount -t cgroup -o "$options" cgroup "sys/fs/cgroup/$folder"
    case $folder in *,*)
      for each in $(echo "$folder" | tr , ' '); do ln -s "$folder" "sys/fs/cgroup/$each"; done ;;
    esac
  done </proc/self/cgroup
}

make_devices() {
  mount -t tmpfs -o mode=755 tmpfs dev
  for each in null zero full random urandom tty kmsg; do
    : >"dev/$each"
    mount --bind "/dev/$each" "dev/$each"
  done
  mkdir dev/pts dev/shm
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
  mount -t tmpfs tmpfs dev/shm
  ln -s pts/ptmx dev/ptmx
  ln -s /proc/self/fd dev/fd
  ln -s /proc/self/fd/0 dev/stdin
  ln -s /proc/self/fd/1 dev/stdout
  ln -s /proc/self/fd/2 dev/stderr
}

shift
"$stage" "$@"
