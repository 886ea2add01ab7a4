# Read by the scripts in tests/ that install what they need from Debian.

# apt_install [OPTION...] PACKAGE...
apt_install() {
    local root=()
    [ "$(id -u)" -eq 0 ] || root=(sudo)
    # RUNLEVEL: to have the programs is enough, none of them is to run as a service here.
    "${root[@]}" apt-get update -q &&
        "${root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -q "$@"
}
