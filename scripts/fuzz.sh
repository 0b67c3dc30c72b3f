#!/usr/bin/env bash
# Fuzzes the ring with libFuzzer's coverage guidance, on the stable compiler: scripts/fuzz.sh [SECONDS]. Default: 20.
# Needs a C++ compiler for libFuzzer. `cargo fuzz run operations` in host/ring does the same with a nightly compiler and
# sanitizers.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
mkdir -p "$target/corpus"
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
coverage+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
RUSTFLAGS="--cfg fuzzing $coverage -Cdebug-assertions" CARGO_TARGET_DIR=$target \
    cargo build --release --manifest-path host/ring/fuzz/Cargo.toml --target "$(rustc -vV | sed -n 's/^host: //p')"
"$target/$(rustc -vV | sed -n 's/^host: //p')/release/operations" -max_total_time="${1:-20}" -max_len=3000 \
    -print_final_stats=1 "$target/corpus"
