#!/usr/bin/env bash
# FastIoT's image build runs this with the folder requirements/ beside it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

extra=()
if [ -n "${FASTIOT_EXTRA_PYPI:-}" ]; then
    extra=(--extra-index-url "http://${FASTIOT_EXTRA_PYPI}" --trusted-host "${FASTIOT_EXTRA_PYPI}")
fi
requirements=()
for file in requirements/requirements*.txt; do
    requirements+=(-r "$file")
done
python3 -m pip install --no-cache-dir "${extra[@]}" "${requirements[@]}"
