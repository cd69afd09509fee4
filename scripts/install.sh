#!/usr/bin/env bash
# Builds the extension and audit-verify in release mode and installs them into the server of PG_CONFIG:
# audit-verify goes beside its programs.
# Does nothing where that has been done and neither side has changed since.
. "$(dirname "$0")/lib.sh"
"$ROOT/scripts/setup.sh"
cd "$ROOT"

library=$("$PG_CONFIG" --pkglibdir)/audit_ext.so
stamp=$TARGET/installed-$(printf %s "$PG_CONFIG" | cksum | cut -d' ' -f1)
verifier=$("$PG_CONFIG" --bindir)/audit-verify
sources=(src sql Cargo.toml Cargo.lock audit_ext.control)

# The stamp holds the checksum of what was installed; somebody else's build there does not match.
if [ -e "$stamp" ] && [ -e "$library" ] && [ -e "$verifier" ] &&
    [ "$(cat "$stamp")" = "$(cksum <"$library")" ] &&
    [ -z "$(find "${sources[@]}" -newer "$stamp" -print -quit 2>/dev/null)" ]; then
    say "audit_ext is installed and up to date: $library"
    exit 0
fi

step "release build and installation into $("$PG_CONFIG" --version)"
mkdir -p "$TARGET"
touch "$stamp.began" # an edit made while we build counts as newer
sudo=()
[ -w "$("$PG_CONFIG" --pkglibdir)" ] || sudo=(--sudo)
# Linking with --no-gc-sections (pgrx's default) would build every dependency a second time; the
# section with the schema survives without it.
CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND=1 \
    cargo pgrx install --release --pg-config "$PG_CONFIG" \
    --no-default-features --features "pg$(pg_major)" "${sudo[@]}" </dev/null
[ -e "$library" ] || die "the build left no $library"
CARGO_TARGET_DIR=$TARGET cargo build --release -p audit_verify </dev/null
as=()
[ -w "$(dirname "$verifier")" ] || as=(as_root)
"${as[@]}" install -m 755 "$TARGET/release/audit-verify" "$verifier"
cksum <"$library" >"$stamp.new"
touch -r "$stamp.began" "$stamp.new"
rm "$stamp.began"
mv "$stamp.new" "$stamp"
