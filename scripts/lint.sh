#!/usr/bin/env bash
# Formatting, clippy, type-check against every supported major, and the rules of structure.
. "$(dirname "$0")/lib.sh"
"$ROOT/scripts/setup.sh"
cd "$ROOT"
bad=0

step "structure"
complain() { printf '%s\n' "$1" >&2; sed 's/^/    /' >&2; bad=1; }
check() { # check MESSAGE FOUND: nothing found is good
    [ -z "$2" ] || complain "$1" <<<"$2"
}
check "src/core knows no pgrx (it is shared with tools that run without a server):" \
    "$(grep -rnP --include='*.rs' --include=Cargo.toml '\b(pgrx(?!-tests)|pg_sys)\b' src/core || true)"
check "src/hooks must not import src/worker: they meet in the ring:" \
    "$([ ! -d src/hooks ] || grep -rnE --include='*.rs' '(crate|super)::(\{[^}]*\b)?worker\b' src/hooks || true)"
check "src/worker must not import src/hooks: they meet in the ring:" \
    "$([ ! -d src/worker ] || grep -rnE --include='*.rs' '(crate|super)::(\{[^}]*\b)?hooks\b' src/worker || true)"
check "files of more than 550 lines (a file has one reason to change):" \
    "$(git ls-files -co --exclude-standard '*.rs' '*.sql' '*.sh' | while read -r file; do
        lines=$(wc -l <"$file"); [ "$lines" -le 550 ] || echo "$file: $lines"; done)"

step "cargo fmt --check"
cargo fmt --all --check || bad=1

step "cargo clippy"
PGRX_PG_CONFIG_PATH=$PG_CONFIG cargo clippy --workspace --all-targets -- -D warnings || bad=1

for major in 14 15 16 17 18; do
    step "type-check for PostgreSQL $major"
    DOCS_RS=1 RUSTC_WRAPPER=$ROOT/scripts/docsrs-rustc.sh RUSTFLAGS="-D warnings" \
        CARGO_TARGET_DIR=$TARGET/lint-majors \
        cargo check -p audit_ext --no-default-features --features "pg$major" || bad=1
done

[ "$bad" = 0 ] || die "lint found something, see above"
step "lint: all good"
