#!/bin/sh
# Tests and benchmark of a GPU: what `make gpu` runs. $PYTHON is a Python 3.11 or 3.12 with PyTorch 2.11 or later; of
# the rest that training needs (docs/gpu.md) what it lacks is taken from wheels/, if that folder is there. No Ray.
set -e
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if [ -d wheels ]; then
    "$PYTHON" -m pip install -q --no-index --no-deps --upgrade --target build/site wheels/*.whl
    export PYTHONPATH="$PYTHONPATH:$PWD/build/site"
fi
"$PYTHON" - <<'END'
import importlib.util, sys
names = {"torch": "torch", "numpy": "numpy", "pydantic": "pydantic", "annotated_types": "annotated-types", "sklearn": "scikit-learn",
         "PIL": "pillow", "matplotlib": "matplotlib", "rich": "rich", "tensorboard": "tensorboard", "pytest": "pytest",
         "pytest_timeout": "pytest-timeout", "xdist": "pytest-xdist"}
missing = [package for module, package in names.items() if importlib.util.find_spec(module) is None]
if missing:
    sys.exit(f"make gpu: this Python lacks {', '.join(missing)}. With a network: pip install them; without: `make gpu-wheels` "
             "on a machine that has one, and bring the folder wheels/ along.")
import torch
if not torch.cuda.is_available():
    sys.exit("make gpu: PyTorch sees no CUDA device. Without one, `make test` runs everything that a CPU can show.")
print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, Python {sys.version.split()[0]}", flush=True)
END
code=0
timeout 220 "$PYTHON" -m pytest -p no:cacheprovider -m gpu tests/gpu -n 4 --dist worksteal --maxfail=30 || code=$?
timeout 290 "$PYTHON" -m benchmarks.gpu --limit 230 "$@" || code=$?
exit $code
