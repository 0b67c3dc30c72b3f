#!/usr/bin/env bash
# Runs the ring under the model checker. `--cfg loom` rebuilds every dependency, hence a target directory of its own.
# LOOM_MAX_PREEMPTIONS bounds the search: 2 takes seconds and finds nearly everything, 3 takes seven minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
LOOM_MAX_PREEMPTIONS="${LOOM_MAX_PREEMPTIONS:-2}" RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom" \
    cargo test --release -p stagehost-ring --lib "$@"
