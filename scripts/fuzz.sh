#!/usr/bin/env bash
# Fuzzes with libFuzzer's coverage guidance, on the stable compiler: scripts/fuzz.sh [SECONDS [TARGET…]]. Default: 20 seconds each of
# all targets: operations (of the ring), pipeline_file, component. Needs a C++ compiler for libFuzzer. `cargo fuzz run TARGET` in
# host/ring or host does the same with a nightly compiler and sanitizers.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-20}
shift || true
targets=${*:-operations pipeline_file component}
target=${CARGO_TARGET_DIR:-$PWD/target}/fuzz
triple=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
coverage+=" -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
for name in $targets; do
    case $name in
        operations) manifest=host/ring/fuzz/Cargo.toml limit=3000 ;;
        *) manifest=host/fuzz/Cargo.toml limit=65536 ;;
    esac
    RUSTFLAGS="--cfg fuzzing $coverage -Cdebug-assertions" CARGO_TARGET_DIR=$target \
        cargo build --release --quiet --manifest-path "$manifest" --target "$triple" --bin "$name"
    mkdir -p "$target/corpus/$name" "$target/seeds/$name"
    case $name in
        pipeline_file) cp examples/*.json "$target/seeds/$name/" ;;
        component) cp stages/built/*.wasm "$target/seeds/$name/" ;;
    esac
    echo "fuzzing $name for $seconds s"
    "$target/$triple/release/$name" -max_total_time="$seconds" -max_len=$limit -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="$target/$name-" -print_final_stats=1 "$target/corpus/$name" "$target/seeds/$name"
done
