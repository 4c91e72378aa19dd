"""Validates what live tests have kept of the output of kms by the schemas in docs/schema.

validate.py SCHEMAS DOCUMENTS: each file of DOCUMENTS has the arguments of a run, or the name of a schema, and the text.
A schema allows new fields, for the programs of users. Here a field that the schema does not have is a fault.
"""

import collections
import json
import pathlib
import sys

import jsonschema

# Commands that write what others do.
ALIASES = {"cronjobs-prune": "cronjobs-apply", "rotate-key": "rotate", "verify-key": "verify"}


def strict(schema):
    """The same schema without room for other fields."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: strict(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        closed.setdefault("additionalProperties", False)
    return closed


def parts(kept, names):
    """The documents in the output of a run, each with the name of its schema."""
    if kept["schema"]:
        for line in kept["stdout"].splitlines() if kept["lines"] else [kept["stdout"]]:
            yield kept["schema"], line
        return
    words = [word for word in kept["args"] if not word.startswith("-")]
    paths = ["-".join(words[at : at + size]) for at in range(len(words)) for size in (3, 2, 1)]
    paths = [ALIASES.get(path, path) for path in paths]
    name = next((path for path in paths if path in names), None)
    if name is None:
        sys.exit(f"no schema for the command: {words}")
    if name == "rotate" and "--all" in kept["args"]:
        name = "rotate-all"
    if kept["stdout"].strip():
        yield name, kept["stdout"]
    for line in kept["stderr"].splitlines():
        if line.startswith('{"error":'):
            yield "error", line
        if line.startswith('{"progress":'):
            yield ("rotate" if name.startswith("rotate") else name) + "-progress", line


def main(schemas, documents):
    validators = {}
    for path in pathlib.Path(schemas).glob("*.json"):
        schema = json.loads(path.read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        validators[path.stem] = jsonschema.Draft202012Validator(strict(schema))
    counts, faults = collections.Counter(), []
    for path in sorted(pathlib.Path(documents).iterdir()):
        kept = json.loads(path.read_text())
        for name, text in parts(kept, validators):
            counts[name] += 1
            for error in validators[name].iter_errors(json.loads(text)):
                faults.append(f"{name}: {error.json_path}: {error.message[:200]}")
    for fault in sorted(set(faults)):
        print(fault, file=sys.stderr)
    print("validated:", ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "nothing")
    return bool(faults)


sys.exit(main(*sys.argv[1:]))
