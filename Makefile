# `make` lists the targets. Everything is installed into .venv once, MLflow's server into .venv-mlflow, and again when pyproject.toml or
# the constraints change.
SHELL := /bin/bash
DEPLOYMENT ?= mongo
ARGS ?=
# The newest Python that is installed, works and is tested, or uv's own; a name alone may be a shim of pyenv.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 .python/*/bin/python3.1[123]; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && command -v "$$python" && break; done)
STAMP := .venv/.installed
MLFLOW_STAMP := .venv-mlflow/.installed
CLIENTS_STAMP := .venv-clients/.installed
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install venv python system-packages browser demo dev test test-long fresh-machine fresh-wheel compat bench lint format types imports check clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | while IFS=$$'\t' read -r name what; do printf '  make %-16s %s\n' "$$name" "$$what"; done

install: venv  ## Install everything into .venv, and MLflow's server into .venv-mlflow (once)

venv: $(STAMP) $(MLFLOW_STAMP)

# uv does not read pip's configuration: where wheels, index and certificates are is taken from what pip lists. (`pip config get` of
# Debian 12 does not find everything that it lists.) As for pip, the best version of all indexes is taken, in whichever it is.
define UV_INSTALL
listed="$$($(BIN)/python -m pip config list)"; \
ask() { for section in :env: install global; do sed -nE "s/^$$section\.$$1='(.*)'\$$/\1/p" <<<"$$listed"; done | head -n 1; }; \
links="$$(ask find-links | sed -E 's/(\\n|[[:space:]])+/,/g; s/^,+|,+$$//g')" index="$$(ask index-url)" cert="$$(ask cert)"; \
more="$$(ask extra-index-url | sed -E 's/(\\n|[[:space:]])+/ /g; s/^ | $$//g')" no_index=""; \
[[ ! "$$(ask no-index)" =~ ^([YyTt1]|[Yy]es|[Tt]rue|[Oo]n)$$ ]] || no_index=--no-index; \
[ -z "$$links" ] || export UV_FIND_LINKS="$${UV_FIND_LINKS:-$$links}"; \
[ -z "$$index" ] || export UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX:-$$index}"; \
[ -z "$$more" ] || export UV_INDEX="$${UV_INDEX:-$$more}" UV_INDEX_STRATEGY="$${UV_INDEX_STRATEGY:-unsafe-best-match}"; \
[ -z "$$cert" ] || export SSL_CERT_FILE="$${SSL_CERT_FILE:-$$cert}"; \
$(BIN)/uv pip install --compile-bytecode $$no_index
endef

# PyTorch alone, from its own index of CPU builds, where everything together would bring CUDA and this machine has no NVIDIA driver: from
# TORCH_INDEX, or from the index that uv knows, unless the user's packages come from an index of their own.
TORCH_INDEX ?=
define CPU_TORCH
$(UV_INSTALL) --dry-run --python $(BIN)/python -c constraints.txt -e '.[all,cluster,dev]' 2>&1 | grep -q ' nvidia-' || exit 0; \
torch() { env -u UV_INDEX $(BIN)/uv pip install --compile-bytecode --no-deps --python $(BIN)/python "$$@" "$$(grep ^torch== constraints.txt)"; }; \
if [ -n "$(TORCH_INDEX)" ]; then torch --default-index "$(TORCH_INDEX)"; exit; fi; \
if [ -e /proc/driver/nvidia/version ]; then echo "PyTorch comes with CUDA for this machine's NVIDIA card: 2.5 GB more to download."; exit 0; fi; \
if [ -n "$$UV_DEFAULT_INDEX$$UV_INDEX_URL$$no_index" ]; then why="pip or uv is configured for other indexes or none, so PyTorch's is not asked"; \
elif UV_HTTP_TIMEOUT=10 torch --torch-backend cpu --dry-run >/dev/null 2>&1; then torch --torch-backend cpu; exit; \
else why="its index of CPU builds is not reached"; fi; \
echo "PyTorch comes with CUDA, 2.5 GB more to download, because $$why: docs/running.md#pytorch-without-cuda"
endef

$(STAMP): pyproject.toml constraints.txt | system-packages
	@[ -e $@ ] && echo "Updating .venv." || \
		echo "Step 1 of 2, once: install into .venv. 1.6 GB to download, 5.4 GB on disk; about 4 minutes at 100 Mbit/s, 13 at 20 Mbit/s."
	@test -x $(BIN)/python || "$(PYTHON)" -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(CPU_TORCH)
	@$(UV_INSTALL) --python $(BIN)/python -c constraints.txt -e '.[all,cluster,dev]'
	@grep -q complex_system $(BIN)/fiot || { $(UV_INSTALL) --quiet --python $(BIN)/python --no-deps --reinstall-package complex-system -e .; }
	@touch $@

$(MLFLOW_STAMP): constraints-mlflow.txt | $(STAMP)
	@[ -e $@ ] && echo "Updating .venv-mlflow." || \
		echo "Step 2 of 2, once: install MLflow's server into .venv-mlflow. 0.2 GB to download, 0.8 GB on disk; about a minute."
	@test -x .venv-mlflow/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python .venv-mlflow
	@$(UV_INSTALL) --python .venv-mlflow/bin/python -c constraints-mlflow.txt 'mlflow[auth]'
	@.venv-mlflow/bin/python -I src/complex_system/local/mlflow_server.py
	@: >$@  # empty: `fiot run` leaves the versions to make

# Clients and servers of others that tests and benchmarks need, in versions that cannot live beside ours.
$(CLIENTS_STAMP): constraints-clients.txt | $(STAMP)
	test -x .venv-clients/bin/python || $(BIN)/uv venv --quiet --python $(BIN)/python .venv-clients
	@$(UV_INSTALL) --python .venv-clients/bin/python -c constraints-clients.txt 'tritonclient[grpc,http]' mlserver mlserver-lightgbm openapi-python-client
	@touch $@

# Where none of the tested Pythons is installed, uv fetches its own into .python, if uv or any Python that can install it is there.
python:
	@[ -z "$(PYTHON)" ] || exit 0; \
	uv="$$(command -v uv)" || { python3 -m venv .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check uv && uv=.uv/bin/uv; } 2>/dev/null || exit 0; \
	echo "No Python 3.11, 3.12 or 3.13 is installed: uv fetches its own 3.13 into .python, about 30 MB to download."; \
	"$$uv" python install --no-bin --install-dir .python 3.13 || ! command -v python3 >/dev/null || \
		{ echo "That failed. Install one of the three and name it, make PYTHON=/path/to/python3.13, or name a mirror of uv's: UV_PYTHON_INSTALL_MIRROR." >&2; exit 1; }

# Debian packages, as root. apt's hundreds of lines are shown only where it fails.
define APT_INSTALL
apt_install() { \
	echo "Installing Debian packages, which takes a minute or two: $$*"; \
	log="$$(mktemp)"; \
	if apt-get update -qq >"$$log" 2>&1 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$$@" >>"$$log" 2>&1; \
	then rm "$$log"; else cat "$$log" >&2; rm "$$log"; return 1; fi; }
endef

system-packages: python  ## Install what Debian packages bring (MariaDB, compiler, headers, MQTT client, ip, iptables) as root, or name them all
	@[ -z "$(PYTHON)" ] || "$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed; $(PYTHON) is another one. Name it: make PYTHON=/path/to/python3.13" >&2; exit 1; }; \
	export PATH="$$PATH:/usr/sbin"; missing=""; \
	needs() { command -v "$$1" >/dev/null || missing="$$missing $$2"; }; \
	needs mariadbd mariadb-server; needs mariadb_config libmariadb-dev; needs cc build-essential; \
	needs mosquitto_pub mosquitto-clients; needs ip iproute2; needs iptables iptables; \
	if [ -z "$(PYTHON)" ]; then missing="$$missing python3 python3-venv python3-dev"; else \
		version="python$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"; \
		"$(PYTHON)" -c 'import ensurepip' 2>/dev/null || missing="$$missing $$version-venv"; \
		headers="$$("$(PYTHON)" -c 'import sysconfig; print(sysconfig.get_path("include"))')"; \
		if [ ! -e "$$headers/Python.h" ]; then case "$$headers" in \
			/usr/include/*) missing="$$missing $$version-dev" ;; \
			*) echo "$(PYTHON) has no headers ($$headers/Python.h is missing); name another one: make PYTHON=/path/to/$$version" >&2; exit 1 ;; \
		esac; fi; \
	fi; \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		$(APT_INSTALL); apt_install $$missing && make -s python; \
	else \
		echo "Debian packages are missing; install them first: sudo apt-get install$$missing" >&2; exit 1; \
	fi

# Ubuntu has no package chromium; there a Chrome is as good.
browser: system-packages  ## Install the browser that tests and pictures of the pages need, and the tests' curl, as root, or name them
	@missing=""; command -v curl >/dev/null || missing=" curl"; \
	command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || missing="$$missing chromium"; \
	[ -n "$$missing" ] || exit 0; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		$(APT_INSTALL); apt_install $$missing && exit 0; \
	fi; \
	echo "The tests need curl and a browser: sudo apt-get install$$missing, or where there is no package chromium Chrome as google-chrome." >&2; exit 1

demo: install  ## Run the system: make demo [DEPLOYMENT=maria] [ONCE=1] [ARGS="--records 100000"]
	@exec $(BIN)/fiot run $(DEPLOYMENT) $(if $(ONCE),--once) $(ARGS)

SERVICE ?= ml_serving_mlflow
dev: install  ## Run the system, and one service again whenever its code changes: make dev [SERVICE=data_processing] [DEPLOYMENT=maria]
	@exec $(BIN)/fiot run $(DEPLOYMENT) --reload $(SERVICE) $(ARGS)

WORKERS ?= 2
test: install browser $(CLIENTS_STAMP)  ## Run all tests, in two processes: make test [WORKERS=4] [ARGS="-k serving"]
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: install browser $(CLIENTS_STAMP)  ## Run what takes longer: tests marked `long`, and README's two commands on a fresh Debian (as root)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m long --durations=40 --durations-min=20
	$(MAKE) fresh-machine

fresh-machine:  ## Make a minimal Debian in a folder and run README's two commands there, as root: make fresh-machine [KEEP=1] [ARGS="-k ingest"]
	PYTHON="$(PYTHON)" KEEP=$(KEEP) tests/fresh_machine.sh $(ARGS)

fresh-wheel:  ## Make a minimal Debian and install the built wheel there as docs/running.md says, as root: make fresh-wheel [SUITE=trixie] [KEEP=1]
	WHEEL=1 SUITE=$(SUITE) PYTHON="$(PYTHON)" KEEP=$(KEEP) tests/fresh_machine.sh

compat:  ## The demo on Debian 13, whose Python is 3.13, with the unit tests: make compat [KEEP=1] [FOLDER=path] [ARGS=tests]
	SUITE=trixie PYTHON="$(PYTHON)" KEEP=$(KEEP) tests/fresh_machine.sh $(or $(ARGS),tests/unit)

bench: install $(CLIENTS_STAMP)  ## Measure against the direct alternatives and write docs/benchmarks.md: make bench [QUICK=1] [ARGS="ingest reading"]
	QUICK=$(QUICK) $(BIN)/python -m benchmarks.run $(ARGS)

.PHONY: scale
RECORDS ?= 300000
GROWN ?= 0
DATABASE ?= MariaDB

scale: install  ## Measure what grows with the records: make scale [RECORDS=10000000] [GROWN=10000000] [DATABASE=MongoDB] [ARGS="--parts 20"]
	$(BIN)/python -m benchmarks.scale $(DATABASE) --records $(RECORDS) --grown $(GROWN) $(ARGS)

.PHONY: replicas
replicas: install  ## Measure one and two replicas of services in network namespaces; needs root: make replicas [ARGS=--quick]
	PYTHONPATH=tests $(BIN)/python -m benchmarks.replicas $(ARGS)

lint: install  ## Check style with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install  ## Put the code into ruff's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: install  ## Check types with mypy
	$(BIN)/mypy

imports: install  ## Check who imports whom
	$(BIN)/lint-imports

check: lint types imports test  ## All checks

.PHONY: audit sbom
audit: install  ## Compare the tested versions of all packages with published vulnerabilities
	$(BIN)/python requirements/audit.py $(ARGS)

sbom: install  ## Write CycloneDX lists of all packages in their tested versions to dist/
	@mkdir -p dist
	for file in constraints*.txt requirements/constraints*.txt; do [ ! -e "$$file" ] || $(BIN)/uv tool run --from cyclonedx-bom==7.5.0 \
		cyclonedx-py requirements "$$file" --pyproject pyproject.toml --output-reproducible --of JSON -o "dist/sbom-$$(basename "$$file" .txt).json" || exit; done

clean:  ## Remove what was built and run; the virtual environments stay
	rm -rf build dist .run .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: screenshots
screenshots: install browser  ## Take the pictures of the monitoring page in docs/images, of a run of an hour: make screenshots [ARGS="--minutes 5"]
	PYTHONPATH=tests $(BIN)/python -m monitoring_page.screenshots $(ARGS)

.PHONY: docs
docs: install  ## Write docs/subjects.md from the declarations, and build the documentation site into build/site; warnings are errors
	$(BIN)/python docs/subject_reference.py
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs build/site

.PHONY: proto
proto: install  ## Generate Python code from serving/grpc/open_inference.proto
	$(BIN)/python -m grpc_tools.protoc -I src --python_out src --pyi_out src complex_system/serving/grpc/open_inference.proto

.PHONY: images compose-test compose-things compose-cluster verify
TAG ?= latest
SERVICES ?=

images: install  ## Build the services' images with plain docker build: make images [SERVICES="ml_serving ..."] [TAG=1.0] [CLUSTER=1]
	$(BIN)/fiot build --dry
	$(BIN)/python -m complex_system.deploy.images --tag $(TAG) $(if $(CLUSTER),--cluster) $(SERVICES)

compose-test: install  ## Prove a deployment in containers, as root: make compose-test [DEPLOYMENT=maria]
	PYTHONPATH=tests $(BIN)/python -m compose.proof $(DEPLOYMENT) $(ARGS)

verify: install $(CLIENTS_STAMP)  ## Prove it all on the public images, with Docker, and write a report: make verify [ARGS="--quick contract-mongo"]
	PYTHONPATH=tests $(BIN)/python -m verify.run $(ARGS)

compose-cluster: install  ## Prove a trainer on a Ray cluster in containers, as root: make compose-cluster [ARGS="--no-build --shared"]
	PYTHONPATH=tests $(BIN)/python -m compose.cluster $(ARGS)

compose-things: install  ## Prove single readings and Prometheus in containers, as root: make compose-things [DEPLOYMENT=maria]
	PYTHONPATH=tests $(BIN)/python -m compose.things $(DEPLOYMENT) $(ARGS)

.PHONY: fuzz
SECONDS ?= 60

fuzz: install  ## Search for inputs that break a reader, each so long: make fuzz [SECONDS=60] [ARGS="page csv"]
	PYTHONPATH=tests $(BIN)/python -m fuzzing.run --seconds $(SECONDS) $(ARGS)

.PHONY: faults
FAULT_RECORDS ?= 50000

HOST_SCHEDULES ?= 20
faults: install  ## Break servers, services and, as root, links of three hosts while records flow: make faults [FAULT_RECORDS=50000] [HOST_SCHEDULES=20] [ARGS="-k maria"]
	FAULT_RECORDS=$(FAULT_RECORDS) HOST_SCHEDULES=$(HOST_SCHEDULES) $(BIN)/python -m pytest tests/faults -m "long or not long" $(ARGS)
