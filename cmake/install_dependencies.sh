#!/usr/bin/env bash
# Installs what penstock is built from, on Debian 12. Runs again without harm; needs root or sudo.
#   install_dependencies.sh [build] [tests] [launchers] [examples] [bench]     which sets; build is always included
set -euo pipefail
packages=(build-essential cmake ninja-build pkg-config libabsl-dev liburing-dev libnuma-dev libisal-dev libxxhash-dev
          nlohmann-json3-dev libcli11-dev libbenchmark-dev)
for set in "$@"; do
  case $set in
    build) ;;
    tests) packages+=(catch2 clang-14 libclang-rt-14-dev libfuse3-dev fuse3 libseccomp-dev strace valgrind util-linux python3 python3-venv python3-numpy
                      python3-pytest) ;;
    launchers) packages+=(openmpi-bin slurmctld slurmd slurm-client munge python3) ;;  # of tests/launchers: 30 MB to download, 25 s
    examples) packages+=(libtorch-dev dataset-fashion-mnist libturbojpeg0-dev python3 python3-pil) ;;
    bench) packages+=(fio python3 python3-venv libopencv-dev libturbojpeg0-dev) ;;
    *) echo "install_dependencies.sh: unknown set '$set' (build, tests, launchers, examples, bench)" >&2; exit 2 ;;
  esac
done
missing=()
for package in "${packages[@]}"; do
  [ "$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null)" = "install ok installed" ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || { echo "penstock: all packages are installed"; exit 0; }
as_root=()
if [ "$(id -u)" != 0 ]; then
  command -v sudo > /dev/null || { echo "penstock: these packages are missing and neither root nor sudo is at hand: ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
command -v apt-get > /dev/null || { echo "penstock: no apt-get here; install what these Debian packages hold: ${missing[*]}" >&2; exit 1; }
echo "penstock: installing ${missing[*]}"
# sudo drops the environment, so it is given behind it.
apt_get() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes apt-get -o DPkg::Lock::Timeout=300 -qq "$@" > /dev/null
}
apt_get update
apt_get install -y --no-install-recommends "${missing[@]}"
