# Read by the scripts in tests/ that check what is for developers of pages.

# A failure inside of "$(…)" is one.
shopt -s inherit_errexit
. tests/deployment/apt.sh

# Installs Node and, into the target directory, what tests/typings/package-lock.json names. Says where.
node_tools() {
    local missing=() place=${CARGO_TARGET_DIR:-target}/types
    command -v node >/dev/null || missing+=(nodejs)
    command -v npm >/dev/null || missing+=(npm)
    if [ ${#missing[@]} -gt 0 ]; then
        apt_install --no-install-recommends "${missing[@]}" >&2
    fi
    # node_modules must not lie among the sources: everything below the root is held to their rules.
    mkdir -p "$place"
    if ! cmp -s tests/typings/package-lock.json "$place/installed.json"; then
        cp tests/typings/package.json tests/typings/package-lock.json "$place"
        npm ci --prefix "$place" --ignore-scripts --no-audit --no-fund --loglevel=error >&2
        cp tests/typings/package-lock.json "$place/installed.json"
    fi
    (cd "$place" && pwd)
}
