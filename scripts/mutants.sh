#!/usr/bin/env bash
# Breaks every promise once, to see that a test notices. Each patch in tests/mutants breaks one promise, limit, fixed bound, step of
# durability or table of refused calls, and names the tests of which one has to fail then:
#
#   Test: TARGET NAME     TARGET is `lib` (unit tests) or a test target, NAME a test's whole name
#
#   scripts/mutants.sh check            whether every patch applies and names a test (quick)
#   scripts/mutants.sh [NAME…]          builds and tries these, or all: an hour
#
# It works in a copy of what was committed last, in target/mutants, with our own packages unoptimised: a mutant takes seconds to build.
# It ends with 1 if a mutant survives, or if anything is wrong with one.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
export CARGO_TERM_COLOR=never RUST_BACKTRACE=0
unset CARGO_TARGET_DIR

mode=try
if [ "${1:-}" = check ]; then
    mode=check
    shift
fi
patches=("${@/%/.patch}")
[ $# -gt 0 ] || patches=($(cd tests/mutants && ls ./*.patch | sed 's,^\./,,'))

# What a patch names, a line each: TARGET NAME.
tests_of() { sed -n 's/^Test: //p' "$root/tests/mutants/$1"; }

wrong=0
for patch in "${patches[@]}"; do
    git apply --check --whitespace=nowarn "tests/mutants/$patch" || { echo "$patch does not apply"; wrong=1; }
    [ -n "$(tests_of "$patch")" ] || { echo "$patch names no test"; wrong=1; }
done
if [ $mode = check ] || [ $wrong != 0 ]; then
    echo "${#patches[@]} mutants; $([ $wrong = 0 ] && echo "all apply" || echo "something is wrong with some")"
    exit $wrong
fi

# The copy keeps what it has built: only files that have changed are touched.
tree=$root/target/mutants
log=$root/target/mutants.log
if [ -d "$tree/.git" ]; then
    git -C "$tree" fetch --quiet "$root" HEAD
    git -C "$tree" reset --quiet --hard FETCH_HEAD
else
    mkdir -p target
    git clone --quiet --shared . "$tree"
fi
cd "$tree"

# cargo, with our own packages unoptimised and everything else as ever.
quickly() {
    cargo "$1" --release --locked --workspace --config profile.release.incremental=true \
        --config profile.release.opt-level=0 --config 'profile.release.package."*".opt-level=3' "${@:2}"
}

# Runs tests of a target on the copy as it is, each by its whole name. 0: all passed; 1: one failed; 2: there is no such test, or it cannot
# be built.
run() {
    local target=$1 code=0 name kind=(--test "$1")
    shift
    [ "$target" != lib ] || kind=(--lib)
    { quickly build --bin stagehost && quickly test "${kind[@]}" --no-run; } > "$log" 2>&1 || return 2
    # What a broken host hangs in is noticed too.
    setsid --wait "$BASH" -c "$(declare -f quickly); echo \$\$ > '$log.session'; quickly test \"\$@\"" quickly \
        "${kind[@]}" -- --exact "$@" < /dev/null > "$log" 2>&1 &
    local waited=$!
    for ((second = 0; second < 900; second++)); do
        kill -0 $waited 2> /dev/null || break
        sleep 1
    done
    # Nor does what it started go on.
    if kill -0 $waited 2> /dev/null; then code=124; fi
    pkill -KILL -s "$(cat "$log.session")" || true
    wait $waited || [ $code != 0 ] || code=$?
    [ $code != 124 ] || return 1
    ! grep -q "^test .* \.\.\. FAILED$" "$log" || return 1
    for name in "$@"; do grep -q "^test $name \.\.\. ok$" "$log" || return 2; done
    return "$code"
}

say_wrong() {
    echo "$1: WRONG"
    grep -E "^error|panicked|FAILED" -A 6 "$log" | head -n 20 || true
    wrong=1
}

# What tests keep from run to run, such as compiled code: what a broken host leaves there is not for others.
kept=($tree/target/tmp $tree/target/release/test-code-cache)
forget() {
    local place
    for place in "${kept[@]}"; do [ ! -d "$place" ] || find "$place" -mindepth 1 -delete; done
}
remember() {
    local place
    forget
    for place in "${kept[@]}"; do [ ! -d "$place.unbroken" ] || cp -a --reflink=auto "$place.unbroken/." "$place/"; done
}

echo "building"
rm -rf "${kept[@]/%/.unbroken}"
forget
{ scripts/build-guests.sh tests && quickly build && quickly test --no-run; } > "$log" 2>&1 || { tail -n 20 "$log"; exit 1; }

# First: what has to fail passes while nothing is broken.
declare -A passes
for target in $(for patch in "${patches[@]}"; do tests_of "$patch"; done | cut -d' ' -f1 | sort -u); do
    mapfile -t names < <(for patch in "${patches[@]}"; do tests_of "$patch"; done | sed -n "s/^$target //p" | sort -u)
    run "$target" "${names[@]}" || say_wrong "unbroken, $target"
    for name in "${names[@]}"; do
        if grep -q "^test $name \.\.\. ok$" "$log"; then passes["$target $name"]=1; else echo "unbroken, $name does not pass"; fi
    done
done

for place in "${kept[@]}"; do [ ! -d "$place" ] || cp -a --reflink=auto "$place" "$place.unbroken"; done

survivors=()
for patch in "${patches[@]}"; do
    name=${patch%.patch}
    git apply --whitespace=nowarn "$root/tests/mutants/$patch"
    verdict=survives
    while read -r test; do
        [ -n "${passes[$test]:-}" ] || { verdict=untested; break; }
        code=0
        run "${test%% *}" "${test#* }" || code=$?
        [ $code != 1 ] || { verdict=noticed; break; }
        [ $code != 2 ] || { verdict=wrong; break; }
    done < <(tests_of "$patch")
    git reset --quiet --hard
    remember
    case $verdict in
        wrong) say_wrong "$name" ;;
        untested)
            echo "$name: its test does not pass without it either"
            wrong=1
            ;;
        survives)
            echo "$name: SURVIVES"
            survivors+=("$name")
            ;;
        *) echo "$name: $verdict by ${test#* }" ;;
    esac
done
echo "${#survivors[@]} of ${#patches[@]} mutants survive ($SECONDS s)"
[ ${#survivors[@]} = 0 ] && [ $wrong = 0 ]
