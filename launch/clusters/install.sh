#!/usr/bin/env bash
# Makes a host of a cluster ready: exact versions, PATH, token authentication. Run on every host by `ray up`, after the
# files have arrived; a second run costs nothing, so that workers of a warm pool and `ray up` of a running cluster do not wait.
#
#   bash ~/mwray/launch/clusters/install.sh [further requirements, such as boto3==1.44.8]
#
# MWRAY_VENV (default ~/venv) is where the virtual environment goes. It needs curl or python3 with venv, and a package index.
set -euo pipefail
code=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
venv=${MWRAY_VENV:-$HOME/venv}
stamp=$HOME/.mwray-installed
uv_version=0.13.8 # fetches and unpacks several files at once; torch with CUDA is some 5 GB, and pip takes one after another
python=3.11       # the one that constraints.txt was tested with; Ray refuses hosts whose minor versions differ

install_with_uv() {
  command -v uv >/dev/null || curl -LsSf "https://astral.sh/uv/$uv_version/install.sh" | sh
  export PATH=$HOME/.local/bin:$PATH
  uv venv --quiet --clear --python "$python" "$venv"
  uv pip install --quiet --python "$venv/bin/python" --constraint "$code/constraints.txt" --editable "$code" "$@"
}

install_with_pip() { # for hosts that reach a package index and nothing else
  "python$python" -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --constraint "$code/constraints.txt" --editable "$code" "$@"
}

# The stamp covers what is installed, not mwray's own files: those are used from where they lie (--editable).
wanted=$(cat "$code/constraints.txt" "$code/pyproject.toml" <(echo "$venv" "$@") | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  rm -f "$stamp"
  install_with_uv "$@" || install_with_pip "$@"
  echo "$wanted" >"$stamp"
fi

# `ray up`, `ray exec` and `ray submit` source ~/.bashrc before every command: `ray` and `python` have to be found there.
if ! grep -qs '^# mwray$' "$HOME/.bashrc"; then
  cat >>"$HOME/.bashrc" <<EOF
# mwray
export PATH=$venv/bin:\$PATH
export RAY_AUTH_MODE=token   # no token, no entry: Ray 2.60 asks for one only where it is told to
export MWRAY_DATA=/mnt/mwray/data
EOF
fi

if [ ! -s "$HOME/.ray/auth_token" ]; then
  echo "install.sh: $HOME/.ray/auth_token is missing; the cluster file has to mount it (file_mounts)" >&2
  exit 1
fi
chmod 700 "$HOME/.ray" && chmod 600 "$HOME/.ray/auth_token" # Ray itself writes it readable for everybody
