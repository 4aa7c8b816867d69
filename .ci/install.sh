# Installs what is missing to build and to test, on Debian 12. Sourced by the other scripts here.
#
# Nothing that is there is touched or upgraded.

say() {
    printf '\n== %s\n' "$*"
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# install_packages NAME...: Debian packages, as root.
install_packages() {
    local missing=() name
    for name in "$@"; do
        dpkg-query -W -f='${Status}\n' "$name" 2>/dev/null | grep -q '^install ok installed$' ||
            missing+=("$name")
    done
    ((${#missing[@]})) || return 0
    say "installing ${missing[*]}"
    command -v apt-get >/dev/null || fail "please install by hand: ${missing[*]}"
    local root=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "not root and no sudo; please install: ${missing[*]}"
        root=(sudo -n)
    fi
    # Another apt may be at work on a machine that has just booted: wait for its lock.
    local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive timeout 600
        apt-get -q -o DPkg::Lock::Timeout=300)
    # An old list may do; if it does not, the next command says so.
    "${apt[@]}" update </dev/null || true
    "${apt[@]}" install -y --no-install-recommends "${missing[@]}" </dev/null
}

# install_rust [COMPONENT...]: a toolchain, and those components if rustup manages it.
install_rust() {
    if ! command -v cargo >/dev/null && [[ -r $HOME/.cargo/env ]]; then
        # shellcheck source=/dev/null
        . "$HOME/.cargo/env"
    fi
    if ! command -v cargo >/dev/null; then
        say "installing Rust with rustup, into $HOME/.cargo and $HOME/.rustup"
        install_packages ca-certificates curl
        curl --proto '=https' --tlsv1.2 -sSf --max-time 120 https://sh.rustup.rs |
            timeout 900 sh -s -- -y --profile minimal
        # shellcheck source=/dev/null
        . "$HOME/.cargo/env"
    fi
    local component
    for component in "$@"; do
        "cargo-$component" --version >/dev/null 2>&1 && continue
        command -v rustup >/dev/null || fail "cargo $component is missing, and so is rustup"
        timeout 600 rustup component add "${component/fmt/rustfmt}"
    done
}

# install_tool NAME VERSION: a cargo subcommand, built from source if none is there.
install_tool() {
    "cargo-$1" --version >/dev/null 2>&1 && return 0
    say "building cargo-$1 $2 (takes some minutes, once)"
    timeout 1500 cargo install --locked --version "$2" "cargo-$1" </dev/null
    "cargo-$1" --version >/dev/null || fail "cargo-$1 is not on the PATH"
}
