#!/usr/bin/env bash
# Runs one program inside an emulated machine with several NUMA nodes, each with CPUs, memory and a PCI host bridge.
#   numa_vm.sh install        fetches what is missing; `run` does that by itself
#   numa_vm.sh run [-n NODES] [-c CPUS] [-m MIB_PER_NODE] [-k KERNEL_ARGS] [-t SECONDS] -- PROGRAM [ARGS...]
# PROGRAM may be static or dynamic (its libraries are found with ldd and go along). Its environment has NUMA_NODES and
# NUMA_CPUS. Its output is printed, its exit status is that of this script: 124 where the time ran out, and 77 with the
# reason where the machine cannot be had here.
# No KVM, no root, nothing installed system-wide: all is emulated, so this is a place to test what is chosen (which node,
# which CPU), never how fast it is. QEMU and busybox are taken where they are installed; what is missing, and Debian's kernel,
# is unpacked into the cache folder by apt-get's download (about 60 MB, once).
# Settings: PENSTOCK_NUMA_VM=off (skip), PENSTOCK_NUMA_VM_CACHE (.cache/numa-vm in the project).
set -euo pipefail

project=$(cd "$(dirname "$0")/../.." && pwd)
cache=${PENSTOCK_NUMA_VM_CACHE:-$project/.cache/numa-vm}
root=$cache/root  # unpacked packages
tools_path=$root/usr/bin:$root/bin

skip() {
  echo "SKIPPED: $*"
  exit 77
}

find_tool() { PATH=$PATH:/usr/sbin:/sbin:$tools_path command -v "$1"; }

kernel_image() { find "$root/boot" -name 'vmlinuz-*' 2>/dev/null | sort | tail -1; }

# All that a run needs is there.
complete() {
  find_tool qemu-system-x86_64 > /dev/null && find_tool busybox > /dev/null && find_tool cpio > /dev/null && [ -n "$(kernel_image)" ]
}

install() {
  [ "$(uname -m)" = x86_64 ] || skip "the emulated NUMA machine needs an x86-64 host, this is $(uname -m)"
  mkdir -p "$cache"
  exec 9> "$cache/lock"
  flock 9  # two tests at once: one fetches, the other waits
  if complete; then
    exec 9>&-
    return 0
  fi
  command -v apt-get > /dev/null && command -v dpkg > /dev/null ||
    skip "no QEMU for the emulated NUMA machine, and no apt-get to fetch it with: install qemu-system-x86, busybox-static and cpio"
  # apt's own folders under the cache, so that neither root nor a system-wide change is needed.
  mkdir -p "$cache/apt/archives/partial" "$root"
  local packages=(linux-image-cloud-amd64) log=$cache/install.log
  find_tool qemu-system-x86_64 > /dev/null || packages+=(qemu-system-x86 seabios)
  find_tool busybox > /dev/null || packages+=(busybox-static)
  find_tool cpio > /dev/null || packages+=(cpio)
  echo "numa_vm: fetching ${packages[*]} into $cache" >&2
  # The kernel by its own name: the package above only depends on it, as it does on tools that are of no use here.
  local kernel
  kernel=$(apt-cache depends linux-image-cloud-amd64 2> /dev/null |
    sed -n 's/.*Depends: \(linux-image-[0-9].*cloud-amd64\)$/\1/p' | head -1)
  [ -n "$kernel" ] || skip "apt knows no package linux-image-cloud-amd64: run apt-get update"
  if ! {
    (cd "$cache/apt/archives" && timeout 300 apt-get -q -o APT::Sandbox::User=root download "$kernel") &&
      { [ ${#packages[@]} -eq 1 ] ||
        timeout 300 apt-get -q -y -o Debug::NoLocking=true -o APT::Sandbox::User=root -o Dir::Cache::archives="$cache/apt/archives" \
          --no-install-recommends --download-only install "${packages[@]:1}"; }
  } > "$log" 2>&1; then
    skip "the packages of the emulated NUMA machine cannot be had: $(grep -m1 -E '^E:|rror' "$log" || tail -1 "$log") ($log)"
  fi
  local package
  for package in "$cache"/apt/archives/*.deb; do dpkg -x "$package" "$root"; done
  rm -rf "$cache/apt"
  # Of the kernel only the image is needed: everything that the tests use is built in.
  rm -rf "$root"/lib/modules "$root"/usr/lib/modules
  exec 9>&-
  complete || skip "the packages of the emulated NUMA machine lack a part: see $log, and remove $cache to begin again"
}

run() {
  local nodes=2 cpus=4 mib=256 kernel_args='' seconds=300 option
  while getopts n:c:m:k:t: option; do
    case $option in
      n) nodes=$OPTARG ;;
      c) cpus=$OPTARG ;;
      m) mib=$OPTARG ;;
      k) kernel_args=$OPTARG ;;
      t) seconds=$OPTARG ;;
      *) exit 2 ;;
    esac
  done
  shift $((OPTIND - 1))
  [ $# -gt 0 ] || { echo "numa_vm: no program given" >&2; exit 2; }
  [ -f "$1" ] || { echo "numa_vm: there is no program $1" >&2; exit 2; }
  [ "${PENSTOCK_NUMA_VM:-}" != off ] || skip "PENSTOCK_NUMA_VM=off"
  complete || install

  local program=$1
  shift
  work=$(mktemp -d "${TMPDIR:-/tmp}/numa-vm.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  local guest=$work/guest name
  name=$(basename "$program")
  mkdir -p "$guest"/{bin,dev,proc,sys,tmp,guest,lib64}
  cp "$(find_tool busybox)" "$guest/bin/busybox"
  cp "$program" "$guest/guest/$name"
  local library
  while read -r library; do
    mkdir -p "$guest$(dirname "$library")"
    cp -nL "$library" "$guest$library"
  done < <(ldd "$program" 2> /dev/null | grep -oE '/[^ ]+' || true)

  {
    echo 'set --'
    local argument
    for argument in "$@"; do printf 'set -- "$@" %q\n' "$argument"; done
  } > "$guest/guest/.arguments"
  cat > "$guest/init" <<INIT
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/guest TMPDIR=/tmp NUMA_NODES=$nodes NUMA_CPUS=$cpus
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev 2> /dev/null; mount -t tmpfs tmp /tmp
cd /guest; . ./.arguments
./$name "\$@" < /dev/null
echo "exit \$?" > /dev/ttyS1
poweroff -f
INIT
  chmod +x "$guest/init"
  (cd "$guest" && find . | PATH=$PATH:$tools_path cpio -o -H newc --quiet) | gzip -1 > "$work/initrd"

  local qemu arguments=() node other
  qemu=$(find_tool qemu-system-x86_64)
  arguments=(-M q35 -accel tcg,thread=multi -cpu max -smp "$cpus,sockets=$nodes" -m $((mib * nodes)) -nodefaults -no-user-config
    -display none -no-reboot -kernel "$(kernel_image)" -initrd "$work/initrd"
    -append "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on $kernel_args"
    -serial stdio -serial "file:$work/status")
  for ((node = 0; node < nodes; ++node)); do
    # A host bridge of the node's own, and a port on it: the PCI devices whose numa_node is this one.
    arguments+=(-object "memory-backend-ram,id=memory$node,size=${mib}M"
      -numa "node,nodeid=$node,memdev=memory$node,cpus=$((node * cpus / nodes))-$(((node + 1) * cpus / nodes - 1))"
      -device "pxb-pcie,id=bridge$node,bus_nr=$((32 + node * 32)),numa_node=$node,bus=pcie.0"
      -device "pcie-root-port,id=port$node,bus=bridge$node,chassis=$((node + 1)),slot=$((node + 1))")
  done
  for ((node = 0; node < nodes; ++node)); do  # distances come after all nodes are declared
    for ((other = 0; other < nodes; ++other)); do
      [ "$other" = "$node" ] || arguments+=(-numa "dist,src=$node,dst=$other,val=$((20 + (other > node ? other - node : node - other)))")
    done
  done
  # A QEMU from the cache finds its libraries, modules and firmware there. One that is installed must not see them.
  if [[ $qemu == "$root"/* ]]; then
    local libraries
    libraries=$(find "$root" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
    arguments+=(-L "$root/usr/share/qemu" -L "$root/usr/share/seabios")
    export QEMU_MODULE_DIR=$root/usr/lib/x86_64-linux-gnu/qemu
    LD_LIBRARY_PATH=$libraries timeout "$seconds" "$qemu" "${arguments[@]}" < /dev/null | tr -d '\r' || true
  else
    timeout "$seconds" "$qemu" "${arguments[@]}" < /dev/null | tr -d '\r' || true
  fi
  local status=
  [ ! -f "$work/status" ] || status=$(tr -d '\r' < "$work/status" | sed -n 's/^exit //p')
  [ -n "$status" ] || echo "numa_vm: the program did not end within $seconds s, or the machine did not start" >&2
  exit "${status:-124}"
}

case ${1:-} in
  install)
    complete || install
    ;;
  run)
    shift
    run "$@"
    ;;
  *)
    sed -n '2,13p' "$0"
    exit 2
    ;;
esac
