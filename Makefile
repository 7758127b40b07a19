# A developer's tasks; CONTRIBUTING.md says when to use which. All but dev need its virtual
# environment to be active.
PYTHON ?= python3
VENV ?= .venv
BUILD ?= $(CURDIR)/build
JOBS ?= 2
SANITIZE ?= OFF
TOOLS = "scikit-build-core>=0.10" "cython>=3.1" "cython-cmake>=0.2" "cmake>=3.20" "ninja>=1.10"
LINTERS = "clang-format==23.1.5"
MODULES = $(patsubst offgrid/sampling/%.pyi,offgrid.sampling.%,$(wildcard offgrid/sampling/_*.pyi))

.PHONY: help dev tools build test slow ctest sanitize coverage lint docs bench

help:
	@echo "dev       make $(VENV) with everything, and the package in place (editable)"
	@echo "tools     what a build without isolation needs (a part of dev)"
	@echo "build     compile what has changed; imports do it too"
	@echo "test      the default tests; T='tests/chat -x' says which, and how"
	@echo "slow      the slow tests"
	@echo "ctest     the C library's tests; SANITIZE=ON with sanitizers"
	@echo "sanitize  the tests of the sampler in Python, compiled with sanitizers (gcc)"
	@echo "coverage  which lines of the package the tests of its parts run"
	@echo "lint      ruff, mypy, clang-format, and the stubs of the compiled modules"
	@echo "docs      compare the documents with the code"
	@echo "bench     the sampler's benchmark"

dev:
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install $(TOOLS) $(LINTERS)
	$(VENV)/bin/pip install --no-build-isolation -Ceditable.rebuild=true -Ceditable.verbose=false -e '.[test]'
	@echo "Now: . $(VENV)/bin/activate"

tools:
	pip install -q $(TOOLS) $(LINTERS)

build:
	@cd tests && python -c "import offgrid.sampling"

test: build
	pytest $(T)

slow: build
	pytest -m "slow and not long" $(T)

ctest:
	cmake -S . -B $(BUILD)/c-$(SANITIZE) -DOFFGRID_MODULES=OFF -DOFFGRID_TESTS=ON \
		-DOFFGRID_WERROR=ON -DOFFGRID_SANITIZE=$(SANITIZE) >/dev/null
	cmake --build $(BUILD)/c-$(SANITIZE) -j$(JOBS) >/dev/null
	ctest --test-dir $(BUILD)/c-$(SANITIZE) --output-on-failure -j$(JOBS)

# A virtual environment of its own: an editable installation is found before any folder of sys.path.
# Its .pth file adds the libraries of the active one. The interpreter is not compiled with
# sanitizers, so their library is loaded first; what Python itself leaks is not looked for.
SANITIZED = $(BUILD)/sanitized
SANITIZED_PYTHON = cd tests && ASAN_OPTIONS=detect_leaks=0 \
	LD_PRELOAD=$$(cc -print-file-name=libasan.so) $(SANITIZED)/venv/bin/python
SITE = import site; print(site.getsitepackages()[0])
IS_SANITIZED = from offgrid.sampling import _sampler; assert "sanitized" in _sampler.__file__

sanitize:
	python -m venv --without-pip $(SANITIZED)/venv
	python -c "$(SITE)" >$(SANITIZED)/site
	cp $(SANITIZED)/site $$($(SANITIZED)/venv/bin/python -c "$(SITE)")/libraries.pth
	pip install -q --no-build-isolation --no-deps --upgrade --config-settings=build-dir=$(SANITIZED)/build \
		--config-settings=cmake.define.OFFGRID_SANITIZE=ON --target $$($(SANITIZED)/venv/bin/python -c "$(SITE)") .
	$(SANITIZED_PYTHON) -c '$(IS_SANITIZED)'
	$(SANITIZED_PYTHON) -m pytest sampling

# From the folder of the tests: in the project's folder, "offgrid" is the source tree, and not what
# is installed and tested.
COVERED = api chat engine grammar store
coverage:
	cd tests && pytest $(COVERED:%=--cov=offgrid.%) --cov-report=term:skip-covered $(COVERED)

lint:
	ruff check .
	ruff format --check .
	mypy
	clang-format --dry-run -Werror csrc/*.[ch] csrc/*.inc csrc/isa/*.c tests/c/*.[ch] tests/fuzz/*.[ch]
	stubtest --mypy-config-file pyproject.toml --ignore-disjoint-bases --ignore-unused-allowlist --allowlist tests/stubtest.txt $(MODULES)

docs:
	pytest tests/test_package.py tests/test_troubleshooting.py tests/test_config.py tests/test_threads.py tests/api/test_reference_page.py

bench:
	python benchmarks/sampler.py
