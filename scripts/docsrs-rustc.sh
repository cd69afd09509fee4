#!/bin/sh
# RUSTC_WRAPPER of scripts/lint.sh: makes pgrx-pg-sys, and only that crate, use the bindings that it
# carries for docs.rs, so that every major type-checks without its headers.
rustc=$1
shift
case " $* " in
*" --crate-name pgrx_pg_sys "*) exec "$rustc" "$@" --cfg docsrs ;;
*) exec "$rustc" "$@" ;;
esac
