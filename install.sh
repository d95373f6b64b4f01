#!/usr/bin/env bash
# Installs Python packages into a service's image: `install.sh` what every service needs, `install.sh PART...` what the parts need
# (requirements/requirements.PART.txt). FastIoT's image build runs it; versions are those of constraints.txt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

options=(--no-cache-dir --disable-pip-version-check --constraint constraints.txt)
if [ -n "${FASTIOT_EXTRA_PYPI:-}" ]; then
    case $FASTIOT_EXTRA_PYPI in
        *://*) options+=(--extra-index-url "$FASTIOT_EXTRA_PYPI") ;;
        *) options+=(--extra-index-url "https://$FASTIOT_EXTRA_PYPI") ;;
    esac
fi
pip() { python3 -m pip install "${options[@]}" "$@"; }

# The driver comes as source. What builds it does not stay in the image, the client library does.
install_packages() {
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
    apt-get clean
    rm -rf /var/lib/apt/lists/*
}

install_maria() {
    local build=(gcc libc6-dev libmariadb-dev)
    install_packages libmariadb3 "${build[@]}"
    pip -r requirements/requirements.maria.txt
    apt-mark manual libmariadb3 >/dev/null
    apt-get purge -y -qq --auto-remove "${build[@]}"
}

if [ $# -eq 0 ]; then
    base=requirements/requirements.txt
    # kio declares pandas and scikit-learn, which its transformers need and its subjects do not.
    grep -v '^kioptipack' "$base" >/tmp/requirements.txt
    pip -r /tmp/requirements.txt
    pip --no-deps "$(grep '^kioptipack' "$base")"
    rm /tmp/requirements.txt
fi
for part in "$@"; do
    case $part in
        maria) install_maria ;;
        lightgbm) install_packages libgomp1 && pip -r requirements/requirements.lightgbm.txt ;;  # the wheel needs GNU's OpenMP
        *) pip -r "requirements/requirements.$part.txt" ;;
    esac
done
# Tests and headers of packages are a tenth of an image.
site=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$site"/{pyarrow,pandas,numpy,sklearn,scipy,matplotlib,polars}/tests "$site"/pyarrow/{include,src} "$site"/torch/{include,test} \
    "$site"/tensorflow/include
