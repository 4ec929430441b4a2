#!/bin/sh
# Puts what runs, and nothing else, into a folder:  sh deploy/collect.sh FOLDER   after `npm run build`.
set -eu
to=$1
from=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$to/bin" "$to/build/Release" "$to/build/bpf" "$to/dist" "$to/node_modules"
cp "$from/bin/triplane" "$to/bin/"
cp "$from"/dist/*.mjs "$to/dist/"
cp "$from/build/Release/triplane.node" "$to/build/Release/"
cp "$from"/build/bpf/*.o "$to/build/bpf/"
# A library of its own, which esbuild cannot take in (src/dataplane/nft/skeleton-child.ts).
cp -R "$from/node_modules/ffi-rs" "$from/node_modules/@yuuang" "$to/node_modules/"
cp -R "$from/package.json" "$from/LICENSE" "$from/LICENSES" "$to/"
strip --strip-unneeded "$to/build/Release/triplane.node"
