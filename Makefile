# What a user and CI run. Everything else is ansible-playbook, as the README shows.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
MAKEFLAGS += --no-print-directory
# Ansible starts Python for every step; without its bytecode each of these compiles anew whatever it imports, which is
# half of its start. Containers and CI often set this.
unexport PYTHONDONTWRITEBYTECODE

# How many robots the demo has.
ROBOTS ?= 3
# Where a built collection lands.
DIST ?= dist

BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
PLAY := ansible-playbook -i inventory/lab.docker.yml

.PHONY: help demo machines demo-down test soak lint unit image collection dashboards variables bench profile engine images artifacts lab-artifacts clean outdated lock

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

# The controller's environment: made once, and again when the lock changes.
$(BIN)/.locked: requirements.txt
	@echo "controller: making .venv from requirements.txt"
	python3 -m venv .venv
	sed -n '/^uv==/,/[^\\]$$/p' requirements.txt > .venv/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement .venv/uv.txt
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.txt
	touch $@

engine:
	@lab/engine.sh start

images: engine $(BIN)/.locked
	@$(BIN)/python lab/images.py

artifacts: engine $(BIN)/.locked ## Fill the artifact store with every binary and image that goes onto a machine
	@ansible-playbook playbooks/artifacts.yml

# The lab's machines have this one's architecture, whatever the fleet has.
lab-artifacts: engine $(BIN)/.locked
	@ansible-playbook playbooks/artifacts.yml -e '{"artifacts_architectures": ["$(shell uname -m)"]}'

image: artifacts ## Build the sensor service's image (a part of `artifacts`)

demo: engine $(BIN)/.locked ## Three robots and a hub in Docker, provisioned and checked (ROBOTS=8 for more)
	@rm -f .lab/stages
	lab/stage.sh "artifacts and machines" $(MAKE) -j2 lab-artifacts machines
	lab/stage.sh "provisioning" $(PLAY) playbooks/site.yml
	lab/stage.sh "first samples" $(PLAY) playbooks/lab/settle.yml
	lab/stage.sh "health" $(PLAY) playbooks/health.yml
	lab/stage.sh "dashboards" $(PLAY) playbooks/lab/settle.yml playbooks/credentials.yml playbooks/dashboards.yml \
	  -e lab_samples=4 -e dashboards_hours=0.05
	lab/stage.sh summary
	hub=https://$$(docker port roverwatch-hub-1 8427/tcp | head -n 1)
	echo "The dashboards: reports/dashboards/fleet.html and reports/dashboards/robot-1.html, in any browser"
	echo "They show the first samples. Draw them again later: ansible-playbook -i inventory/lab.docker.yml playbooks/dashboards.yml"
	echo "The hub's gateway, as a reader:"
	echo "  curl --netrc-file .lab/demo/pki/operator.netrc --cacert .lab/demo/pki/ca.pem '$$hub/api/v1/query?query=up'"

machines: images
	@$(PLAY) playbooks/lab/create.yml -e lab_robots=$(ROBOTS)

demo-down: $(BIN)/.locked ## Remove the demo's containers, volumes, network and keys, and the engine if the demo started it
	@verdict=$$(python3 lab/engine.py) && status=0 || status=$$?
	[ $$status = 0 ] || echo "nothing is removed: $$verdict"
	case $$status in 0) ansible-playbook playbooks/lab/destroy.yml ;; 3) ;; *) exit 1 ;; esac
	lab/engine.sh stop

lint: $(BIN)/.locked ## ansible-lint, yamllint, actionlint, ruff, mypy
	@yamllint --strict .
	actionlint
	python tests/ansible_lint.py --offline --strict
	ruff check .
	ruff format --check .
	mypy app/src plugins/module_utils plugins/modules plugins/action plugins/callback plugins/filter plugins/inventory \
	  plugins/plugin_utils dashboards bench docs/variables.py \
	  tests/run.py tests/stages.py tests/ansible_lint.py tests/stopwatch.py tests/collection.py tests/fleet.py tests/gateway.py tests/browser.py tests/interruption.py tests/power.py tests/registry.py tests/releases tests/compute_api
	mypy --scripts-are-modules roles/release/files/roverwatch-release lab/engine.py lab/images.py lab/keys.py lab/disks.py

unit: engine $(BIN)/.locked ## The unit tests of app/, plugins/ and the tree's invariants
	@lab/packages.sh mosquitto chromium nft=nftables docker-registry skopeo
	pytest -q --numprocesses auto --dist worksteal

test: $(BIN)/.locked ## Everything CI runs: lint, unit tests, the Molecule scenarios (ONLY=hub,robot or CHANGED=1 for some)
	@python tests/run.py

soak: $(BIN)/.locked ## The same with larger numbers: ten power cuts for each robot, outages of minutes
	@python tests/run.py soak

# Of what git tracks: beside it an operator's inventory and secrets may lie.
collection: $(BIN)/.locked ## Build the collection roverwatch.fleet, for those who install it instead of a checkout
	@rm -rf $(DIST)/tracked
	mkdir -p $(DIST)/tracked
	git ls-files -z | tar --create --null --files-from - | tar --extract --directory $(DIST)/tracked
	ansible-galaxy collection build --force --output-path $(DIST) $(DIST)/tracked
	rm -rf $(DIST)/tracked

dashboards: $(BIN)/.locked ## Write the dashboards' files for VMUI and Grafana anew, after a change of dashboards/fleet.py or robot.py
	@python -m dashboards

variables: $(BIN)/.locked ## Write docs/variables.md anew, after a change of a role's specs
	@python docs/variables.py

bench: $(BIN)/.locked ## The measurements that the documents quote
	@bench/run.sh

profile: $(BIN)/.locked ## Flame graphs of the sensor service under load: its CPU time and its memory
	@python -m bench.profile

outdated: $(BIN)/.locked ## Say which pins are not the newest of their line, and what to change
	@lab/packages.sh git skopeo
	ansible-playbook playbooks/outdated.yml

lock: $(BIN)/.locked ## Write the locks anew: Python packages by their hashes, base images by their digests
	@lab/packages.sh skopeo
	ansible-playbook playbooks/outdated.yml -e outdated_write=true

clean: engine $(BIN)/.locked ## Remove the demo and what was built, too: images, artifacts, the environment
	@ansible-playbook playbooks/lab/destroy.yml
	docker image ls --format '{{.Repository}}:{{.Tag}}' 'roverwatch*/*' | xargs -r docker image rm >/dev/null
	lab/engine.sh stop
	rm -rf artifacts reports dist .venv .lab
