#!/usr/bin/env bash
# Installs what the tests need (wasm targets, see build-guests.sh), builds the tests' guests, and runs every test.
# Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/build-guests.sh tests
cargo test --release --locked --workspace "$@"
