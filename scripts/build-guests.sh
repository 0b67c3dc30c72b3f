#!/usr/bin/env bash
# Builds wasm guests: the stock stages (into stages/built, with their manifest) and the tests' guests.
#
#   scripts/build-guests.sh stock          the stock stages
#   scripts/build-guests.sh tests          the tests' guests, into target/guests
#   scripts/build-guests.sh check          says whether stages/built is what the sources say; builds nothing
#
# There are two routes. With rustup's wasm targets (installed, or installable) it is plain cargo. Where rustup can add no
# target, the standard library is built from the distribution's source package against its wasi-libc (Debian; needs root
# or sudo to install packages the first time); GUEST_ROUTE=distribution asks for that route.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=${CARGO_TARGET_DIR:-$root/target}/guest-build
out=${CARGO_TARGET_DIR:-$root/target}/guests

say() { printf 'build-guests: %s\n' "$*" >&2; }

# --- what a component was built from ---------------------------------------------------------------------------------

# One digest over the names and contents of everything that goes into stage $1.
source_digest() {
    find "stages/$1" stages/small_memory.rs guest-sdk/src guest-sdk/wit guest-sdk/Cargo.toml -type f -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1
}

stock_stages() { for manifest in stages/*/Cargo.toml; do basename "$(dirname "$manifest")"; done; }

write_manifest() {
    {
        printf '{\n  "toolchain": "%s",\n  "stages": {\n' "$1"
        local separator=''
        for stage in $(stock_stages); do
            printf '%s    "%s": {\n      "sources": "%s",\n      "component": "%s"\n    }' "$separator" "$stage" \
                "$(source_digest "$stage")" "$(sha256sum "stages/built/$stage.wasm" | cut -d' ' -f1)"
            separator=$',\n'
        done
        printf '\n  }\n}\n'
    } > stages/built/manifest.json
}

check() {
    local stale=0
    for stage in $(stock_stages); do
        if ! grep -q "\"sources\": \"$(source_digest "$stage")\"" stages/built/manifest.json; then
            say "stages/built/$stage.wasm is stale: its sources changed; run scripts/build-guests.sh stock"
            stale=1
        fi
        if ! grep -q "\"component\": \"$(sha256sum "stages/built/$stage.wasm" | cut -d' ' -f1)\"" stages/built/manifest.json; then
            say "stages/built/$stage.wasm is not what the manifest says; run scripts/build-guests.sh stock"
            stale=1
        fi
    done
    return $stale
}

# --- the two routes --------------------------------------------------------------------------------------------------

targets="wasm32-wasip2 wasm32-wasip1 wasm32-unknown-unknown"
flags="-C target-feature=+simd128 --remap-path-prefix=$root=. --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"

has_targets() {
    local installed
    installed=$(rustup target list --installed 2>/dev/null) || return 1
    for target in $targets; do grep -qx "$target" <<< "$installed" || return 1; done
}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

# The distribution's sources of the standard library and wasi-libc, as a private sysroot.
distribution_sysroot() {
    sysroot=$work/sysroot
    if [ -e "$sysroot/ready" ]; then return; fi
    command -v apt-get > /dev/null || {
        say "cannot build guests here: rustup can add no wasm target, and there is no apt-get to install rust-web-src and wasi-libc with"
        exit 1
    }
    say "rustup can add no wasm target; using the distribution's packages"
    if ! [ -x /usr/bin/cargo ] || ! [ -d /usr/src/rustc-*/library ] 2> /dev/null; then
        as_root apt-get update -q >&2
        as_root apt-get install -y -q --no-install-recommends rustc-web cargo-web rust-web-src >&2
    fi
    rm -rf "$work/apt" "$sysroot"
    mkdir -p "$work/apt/parts" "$work/apt/lists/partial" "$sysroot/lib/rustlib"
    (
        cd "$work/apt"
        awk 'BEGIN { RS = ""; ORS = "\n\n" } NR == 1' /etc/apt/sources.list.d/debian.sources |
            sed 's/^Suites:.*/Suites: forky/' > parts/forky.sources
        options=(-o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$PWD/parts" -o "Dir::State::Lists=$PWD/lists" -o APT::Sandbox::User=root)
        apt-get "${options[@]}" -q update >&2
        apt-get "${options[@]}" -q download wasi-libc >&2
        dpkg -x wasi-libc_*.deb libc
    )
    ln -s /usr/lib/rustlib/* "$sysroot/lib/rustlib/"
    for pair in wasm32-wasip2:wasm32-wasip2 wasm32-wasip1:wasm32-wasi; do
        mkdir -p "$sysroot/lib/rustlib/${pair%%:*}/lib/self-contained"
        for object in crt1-command.o crt1-reactor.o libc.a; do
            cp "$work/apt/libc/usr/lib/${pair##*:}/$object" "$sysroot/lib/rustlib/${pair%%:*}/lib/self-contained/"
        done
    done
    touch "$sysroot/ready"
}

choose_route() {
    if [ "${GUEST_ROUTE:-}" = distribution ]; then
        route=distribution
        distribution_sysroot
    elif has_targets || { rustup target add $targets > /dev/null 2>&1 && has_targets; }; then
        route=rustup
    else
        route=distribution
        distribution_sysroot
    fi
}

toolchain() { if [ $route = rustup ]; then rustc --version; else /usr/bin/rustc --version; fi; }

profile=guest
# What links, where the target's own linker makes no component.
linking=

# build TARGET PACKAGE…
build() {
    local target=$1 packages=()
    shift
    for package in "$@"; do packages+=(-p "$package"); done
    local linkers
    linkers=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
    if [ $route = rustup ]; then
        env -u CARGO_ENCODED_RUSTFLAGS PATH="$linkers:$linkers/gcc-ld:$PATH" RUSTFLAGS="$flags $linking" CARGO_TARGET_DIR="$work/rustup" \
            cargo build --locked --profile $profile --target "$target" "${packages[@]}"
    else
        env -u CARGO_ENCODED_RUSTFLAGS -u RUSTUP_TOOLCHAIN PATH="$linkers:$linkers/gcc-ld:$PATH" RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc \
            RUSTFLAGS="$flags $linking --sysroot $work/sysroot" CARGO_TARGET_DIR="$work/distribution" \
            /usr/bin/cargo build --locked --profile $profile --target "$target" -Zbuild-std=std,panic_abort "${packages[@]}"
    fi
}

built() { printf '%s/%s/%s/%s/%s' "$work" "$route" "$1" "$profile" "$2"; }

stock() {
    choose_route
    mapfile -t packages < <(stock_stages | sed 's/^/stagehost-stage-/')
    # By this target a component imports what the SDK does, and nothing for a standard library that it does not use: its host makes each
    # import ready each time it starts.
    linking='-C linker=wasm-component-ld'
    build wasm32-unknown-unknown "${packages[@]}"
    mkdir -p stages/built
    for stage in $(stock_stages); do cp "$(built wasm32-unknown-unknown "$stage.wasm")" "stages/built/$stage.wasm"; done
    write_manifest "$(toolchain)"
    say "built $(stock_stages | wc -w) stock stages with $(toolchain)"
}

tests() {
    choose_route
    profile=guest-lines
    mkdir -p "$out"
    build wasm32-wasip2 stagehost-guest-probe stagehost-guest-async-probe stagehost-guest-std-probe
    cp "$(built wasm32-wasip2 probe.wasm)" "$out/probe.wasm"
    cp "$(built wasm32-wasip2 async_probe.wasm)" "$out/async-probe.wasm"
    cp "$(built wasm32-wasip2 std-probe.wasm)" "$out/std-probe-p2.wasm"
    build wasm32-wasip1 stagehost-guest-std-probe
    cp "$(built wasm32-wasip1 std-probe.wasm)" "$out/std-probe-p1.wasm"
    build wasm32-unknown-unknown stagehost-guest-probe
    cp "$(built wasm32-unknown-unknown probe.wasm)" "$out/probe-unknown.core.wasm"
    say "built the tests' guests into $out with $(toolchain)"
}

case "${1:-}" in
    stock | tests | check) "$1" ;;
    *)
        say "usage: scripts/build-guests.sh stock|tests|check"
        exit 2
        ;;
esac
