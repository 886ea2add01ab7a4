"""Holds every name that deploy/ uses against what there is: flags and environment variables against `--help`, metrics and
label values against the code. Settings are given to the program itself, which must not find fault with them.

usage: names.py HATCHERY RENDERED-MANIFEST...
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
HATCHERY, MANIFESTS = sys.argv[1], sys.argv[2:]
ROLES = ("frontdoor", "agent", "relay")
bad, looked_at = [], {"flags": 0, "variables": 0, "settings": 0, "metrics": 0, "label values": 0}


def wrong(where, what):
    bad.append(f"{where}: {what}")


def verbs_of(text):
    below = re.search(r"^Commands:\n(.*?)\n\n", text, re.M | re.S)
    return [verb for verb in re.findall(r"^  ([a-z]+) ", below[1], re.M) if verb != "help"] if below else []


def help_of(*verbs):
    """All flags and variables of a command and of those below it."""
    text = subprocess.run([HATCHERY, *verbs, "--help"], capture_output=True, text=True, check=True).stdout
    found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)), set(re.findall(r"HATCHERY_[A-Z_]+", text))
    for more in (help_of(*verbs, verb) for verb in verbs_of(text)):
        found = found[0] | more[0], found[1] | more[1]
    return found


COMMANDS = subprocess.run([HATCHERY, "--help"], capture_output=True, text=True, check=True).stdout
HELP = {verb: help_of(verb) for verb in verbs_of(COMMANDS)}
ANY_FLAG = set().union(*(flags for flags, _ in HELP.values()), {"--version"})
# For commands that are run where a role is.
OPERATORS = {"HATCHERY_SERVER", "HATCHERY_CA", "HATCHERY_TOKEN_FILE"}
VARIABLES = set().union(*(variables for _, variables in HELP.values()), OPERATORS)


def flags(where, verb, words):
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", words):
        looked_at["flags"] += 1
        if flag not in HELP[verb][0]:
            wrong(where, f"hatchery {verb} has no {flag}")


def something(directory):
    """What the files of TLS and of API keys may hold; the settings name others, which are not here."""
    subprocess.run(
        [HATCHERY, "certs", "new", "--dir", directory, "--frontdoor", "frontdoor", "--agent", "agent",
         "--relay", "render-1"],
        check=True, capture_output=True,
    )
    for end in ("pem", "key"):
        os.rename(f"{directory}/render-1.relay.{end}", f"{directory}/relay.{end}")
    keys = os.path.join(directory, "api-keys")
    subprocess.run([HATCHERY, "key", "new", "--file", keys], check=True, capture_output=True)
    with open(os.path.join(directory, "password"), "w", encoding="utf-8") as file:
        file.write("secret\n")
    return {
        "tls-cert": f"{directory}/{{}}.pem", "tls-key": f"{directory}/{{}}.key", "tls-client-ca": f"{directory}/ca.pem",
        "agent-tls-cert": f"{directory}/frontdoor.pem", "agent-tls-key": f"{directory}/frontdoor.key",
        "api-keys": keys, "registry-password-file": f"{directory}/password",
    }


def here(role, flag, value):
    """A file of this machine for a flag that wants one."""
    if flag == "registry":
        return re.sub(r"\bca=/[^&]*", f"ca={SCRATCH.name}/ca.pem", value)
    if flag == "spawn-user":
        # The samples' group is not one of this machine.
        return re.sub(r":[a-z]+$", ":4711", value)
    return FILES[flag].format(role) if flag in FILES else value


def accepted(where, role, arguments, environment):
    """Settings are checked before anything is done; with these addresses, which no machine has, nothing can be."""
    looked_at["settings"] += 1
    # Where it would be able to listen, it is told not to.
    environment = {k: v for k, v in environment.items() if k.startswith("HATCHERY_")}
    given = " ".join(arguments)
    for flag, variable in (("--listen", "HATCHERY_LISTEN"),):
        if flag + "=" in given:
            arguments = [f"{flag}=192.0.2.1:7070" if a.startswith(flag + "=") else a for a in arguments]
        else:
            environment[variable] = "192.0.2.1:7070"
    words = (a.removeprefix("--").split("=", 1) for a in arguments)
    arguments = [f"--{w[0]}={here(role, w[0], w[1])}" if len(w) == 2 else f"--{w[0]}" for w in words]
    environment = {k: here(role, k.removeprefix("HATCHERY_").lower().replace("_", "-"), v) for k, v in environment.items()}
    path = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    if role == "agent":
        environment["HATCHERY_STATE_DIR"] = "/nonexistent/hatchery"
        # The node of the certificate above.
        environment["HATCHERY_NODE"] = "agent"
        arguments = [a for a in arguments if not a.startswith(("--state-dir=", "--node="))]
    try:
        run = subprocess.run([HATCHERY, role, *arguments], env=path | environment, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return wrong(where, f"hatchery {role} runs, on addresses nobody has")
    if run.returncode == 2:
        wrong(where, run.stderr.strip())
    return None


def lines():
    for path in sorted(DEPLOY.rglob("*")):
        if path.is_file() and path.suffix != ".json":
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                yield f"{path.relative_to(ROOT)}:{number}", line


SCRATCH = tempfile.TemporaryDirectory()
FILES = something(SCRATCH.name)

for where, line in lines():
    for verb, words in re.findall(r"\bhatchery (?:--json )?([a-z]+)\b([^|;`&]*)", line):
        if verb in HELP:
            flags(where, verb, words)
    for flag in re.findall(r"`(--[a-z][a-z-]*)", line):
        looked_at["flags"] += 1
        if flag not in ANY_FLAG:
            wrong(where, f"nothing has {flag}")
    for variable in re.findall(r"\bHATCHERY_[A-Z_]+", line):
        looked_at["variables"] += 1
        if variable not in VARIABLES:
            wrong(where, f"nothing reads {variable}")

# The environment files of systemd, with what is commented out as well.
for role in ROLES:
    path = DEPLOY / "systemd" / f"{role}.env"
    environment = dict(re.findall(r"^#?(HATCHERY_[A-Z_]+)=(.*)$", path.read_text(encoding="utf-8"), re.M))
    for variable in set(environment) - HELP[role][1]:
        wrong(path.name, f"hatchery {role} does not read {variable}")
    # JSON web tokens are an example of a file that nobody has.
    environment = {k: v for k, v in environment.items() if not k.startswith("HATCHERY_JWT_")}
    accepted(path.name, role, [], environment)

# The manifests, as they would be applied.
for manifest in MANIFESTS:
    for document in yaml.safe_load_all(pathlib.Path(manifest).read_text(encoding="utf-8")):
        pod = (document.get("spec") or {}).get("template", {}).get("spec", {}) if isinstance(document, dict) else {}
        for container in pod.get("containers", []):
            role, *arguments = container.get("args") or [""]
            if role in ROLES:
                where = f"{os.path.basename(manifest)} {document['kind']} {container['name']}"
                flags(where, role, " ".join(arguments))
                registry = f"rediss://{role}@192.0.2.1:6379?ca=/etc/hatchery/tls/ca.crt"
                arguments = [a.replace("$(HOST_IP)", "192.0.2.1") for a in arguments]
                accepted(where, role, arguments, {"HATCHERY_NODE": "n", "HATCHERY_REGISTRY": registry})

# Compose, which is YAML with anchors.
for name, service in yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text(encoding="utf-8"))["services"].items():
    role = (service.get("command") or [""])[0]
    if role in ROLES:
        environment = {k: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(v)) for k, v in service["environment"].items()}
        for variable in {v for v in environment if v.startswith("HATCHERY_")} - HELP[role][1] - OPERATORS:
            wrong(f"compose.yaml {name}", f"hatchery {role} does not read {variable}")
        accepted(f"compose.yaml {name}", role, [], environment)

# Metrics, with the suffix that their kind gives them.
KINDS = {}
for role in ("frontdoor", "agent"):
    # Both have the metrics of traces.
    files = sorted(p for crate in (role, "traces") for p in (ROOT / "crates" / crate / "src").rglob("*.rs"))
    source = "\n".join(p.read_text(encoding="utf-8") for p in files if p.stem.endswith("metrics") or p.parent.name == "metrics")
    for name in re.findall(r'(?:register!?|phase!)\(\s*(?:[^"()]*(?:\([^()]*\))?[^"()]*,\s*)?"([a-z_]+)"', source):
        KINDS[name if name.startswith(("process_", "hatchery_")) else f"hatchery_{role}_{name}"] = None
    # Those that are registered in a loop: a name and its help.
    for name in re.findall(r'^\s+\("([a-z_]+)", "[A-Z]', source, re.M):
        KINDS[f"hatchery_{role}_{name}"] = None
CODE = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "crates").rglob("*.rs"))
LABELS = {"le", "instance", "job", "farm", "node", "pod"}
LABELS |= set(re.findall(r"^    (\w+): ", "\n".join(re.findall(r"EncodeLabelSet\)\]\nstruct \w+ \{(.*?)\}", CODE, re.S)), re.M))


def expressions():
    dashboard = json.loads((DEPLOY / "monitoring" / "dashboard.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"dashboard, {panel['title']}", target["expr"]
    for group in yaml.safe_load((DEPLOY / "monitoring" / "alerts.yml").read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            yield f"alerts.yml, {rule['alert']}", rule["expr"]


for where, expression in expressions():
    for metric in re.findall(r"\b(?:hatchery|process)_[a-z_]+", re.sub(r'"[^"]*"', '""', expression)):
        looked_at["metrics"] += 1
        if metric not in KINDS and re.sub(r"_(total|bucket|sum|count)$", "", metric) not in KINDS:
            wrong(where, f"there is no metric {metric}")
    for label, values in re.findall(r'(\w+)=~?"([^"]*)"', expression):
        if label not in LABELS:
            wrong(where, f"there is no label {label}")
        for value in values.split("|"):
            if label in LABELS - {"job", "farm", "instance", "node", "pod", "le"} and value:
                looked_at["label values"] += 1
                if f'"{value}"' not in CODE:
                    wrong(where, f"no {label} is ever {value}")

# What processes really say, where their answers to a scrape were kept.
for scrape in sorted(pathlib.Path(os.environ["SCRAPES"]).glob("*.metrics")) if "SCRAPES" in os.environ else []:
    kinds = dict(re.findall(r"^# TYPE (\w+) (\w+)$", scrape.read_text(encoding="utf-8"), re.M))
    for name in kinds:
        if name not in KINDS:
            wrong(scrape, f"{name} was not found in the code: this check is blind to it")
    for where, expression in expressions():
        for metric in re.findall(r"\b(?:hatchery|process)_[a-z_]+", re.sub(r'"[^"]*"', '""', expression)):
            base = re.sub(r"_(total|bucket|sum|count)$", "", metric)
            kind = kinds.get(metric) or kinds.get(base)
            suffix = metric[len(base):] if metric not in kinds else ""
            fitting = {"counter": {"_total"}, "gauge": {""}, "histogram": {"_bucket", "_sum", "_count"}}
            if kind and suffix not in fitting[kind]:
                wrong(where, f"{metric} is a {kind}")

if "no metric" not in "".join(bad) and len(KINDS) < 20:
    wrong("names.py", f"found only {len(KINDS)} metrics in the code")
print(", ".join(f"{count} {what}" for what, count in looked_at.items()), "looked at")
print("\n".join(bad))
sys.exit(bool(bad))
