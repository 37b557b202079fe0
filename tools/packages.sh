# Sourced by the scripts in this folder: names and installs Debian packages that are missing.

# What tests use beside Rust: qemu-img and qemu-io to compare with, iasl to check ACPI tables,
# isoinfo and xorriso to read seed disks, mmdebstrap to make disk images, ip and passt
# for networks.
TEST_PACKAGES=(qemu-utils acpica-tools genisoimage xorriso mmdebstrap iproute2
    passt)

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

need_rust() {
    if ! command -v cargo >/dev/null 2>&1; then
        echo "Rust is missing: install it from https://rustup.rs, then run this again." >&2
        exit 1
    fi
    if ! command -v cc >/dev/null 2>&1; then
        need_packages --install gcc libc6-dev
    fi
}

# need_packages --install|"" PACKAGE...
need_packages() {
    local install=$1 package missing=()
    shift
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' \
            || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ -z "$install" ]; then
        echo "Missing packages; install them: apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    fi
    echo "Installing ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}
