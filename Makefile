# The course's commands. Each installs what it needs on its first run, and only then.
# PYTHON chooses the interpreter (3.11.5 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: course test check lab site notebooks clean

course: $(READY)  ## execute all lessons; build/index.html opens a site of what they showed
	$(BIN)/python -m vlm_utils course

test: $(READY)  ## unit tests, and every notebook under nbval
	$(BIN)/python -m pytest --nbval-lax --nbval-current-env tests notebooks

check: $(READY)  ## for instructors: the notebooks only, and a table; PROFILE=full at real size
	$(BIN)/python -m vlm_utils check $(if $(PROFILE),--profile $(PROFILE))

lab: $(READY)  ## open JupyterLab on lesson 01, with the whole repository in its file browser
	$(BIN)/python -m jupyter lab --ServerApp.root_dir=. notebooks/01_architecture.ipynb

site: $(READY)  ## the site of the lessons as they are stored, nothing executed: build/index.html
	$(BIN)/python -m vlm_utils site

notebooks: $(READY)  ## for authors: fill the marked cells, execute, store the outputs
	$(BIN)/python -m vlm_utils sync
	$(BIN)/python -m vlm_utils course --write

clean:  ## remove what the commands above have made
	rm -rf $(VENV) build

# An environment that uv has made has no pip in it, and uv.lock holds the same versions.
$(READY): pyproject.toml constraints.txt
	if grep -qs '^uv = ' $(VENV)/pyvenv.cfg; then uv sync --extra test --extra site; else \
	$(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet \
	    --constraint constraints.txt --editable '.[test,site]'; fi
	touch $(READY)
