"""What makes a run the same run: its config, its studies, their tables, and the files that it starts from.

The same command on it resumes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import yaml
from pydantic import ValidationError

from m4oe.artifact import write_text
from m4oe.config import Config, dump_config, flattened
from m4oe.errors import UserError
from m4oe.study import Study

PLAN = "plan.json"


def begin_run(
    out: Path,
    config: Config,
    studies: Sequence[Study],
    environment: Mapping[str, object],
    plans: Collection[Path] = (),
) -> None:
    """Makes the run folder `out`, in which `plans` may lie already, or finds in it the very same run to go on with.

    Raises UserError where `out` holds something else, and says what differs.
    """
    identity = {"config": _digest(dump_config(config).encode())}
    identity |= {f"study {study.name}": _study_digest(study) for study in studies}
    known = out / "environment.json"
    if known.is_file():
        _refuse_another(out, _identity_in(known), identity, config)
        return
    _refuse_files(out, plans)
    (out / "studies").mkdir(parents=True, exist_ok=True)
    write_text(out / "config.yaml", dump_config(config))
    for study in studies:
        write_text(out / "studies" / f"{study.name}.yaml", absolute_study(study))
    write_text(known, json.dumps({**environment, "identity": identity}, indent=1))


def _refuse_files(out: Path, plans: Collection[Path]) -> None:
    found = sorted(path for path in out.rglob("*") if path.is_file() and path not in plans)
    if found and all(path.name == PLAN for path in found):
        where = (
            f"it is read from {', '.join(map(str, plans))}; move it" if plans else "a classifier has none; delete it"
        )
        raise UserError(f"{found[0]}: this training reads no plan there: {where}")
    if found:
        raise UserError(f"{out}: the folder is not empty and holds no m4oe run; give another with -o")


def hold_to(out: Path, files: Mapping[str, Path]) -> None:
    """Notes of the run in `out` what it starts from, files by what a user calls them; one that is absent says nothing.

    Raises UserError where a file was noted before and has another content now.
    """
    path = out / "environment.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    known = facts.get("files", {})
    found = {name: _file_digest(file) for name, file in files.items() if file.is_file()}
    if changed := sorted(name for name, digest in found.items() if known.get(name, digest) != digest):
        raise _another(out, changed)
    if found.keys() - known.keys():
        write_text(path, json.dumps({**facts, "files": {**known, **found}}, indent=1))


def _identity_in(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["identity"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged: it does not say which run this is; restore it, or train anew") from None


def absolute_study(study: Study) -> str:
    """The study as YAML that can be read from any folder: its table and root as full paths."""
    content = study.model_dump(mode="json", exclude={"folder"}, exclude_defaults=True)
    content |= {"table": str(study.table_path.resolve()), "root": str(study.root_folder.resolve())}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _refuse_another(out: Path, known: Mapping[str, str], identity: Mapping[str, str], config: Config) -> None:
    differs = {key for key in known.keys() | identity.keys() if known.get(key) != identity.get(key)}
    changed = _changed_keys(out / "config.yaml", config) if "config" in differs else []
    if not changed and _digest((out / "config.yaml").read_bytes()) == known.get("config"):
        differs -= {"config"}  # written before a key existed, which has its default now
    if differs:
        raise _another(out, sorted(differs - {"config"}) + changed or ["config"])


def _another(out: Path, differs: Sequence[str]) -> UserError:
    return UserError(f"{out}: holds another run, which differs in: {', '.join(differs)}; give another folder with -o")


def _changed_keys(path: Path, config: Config) -> list[str]:
    """Keys such as train.seed in which the run's config and the new one differ; one that the run's lacks has its
    default."""
    told = yaml.safe_load(path.read_text(encoding="utf-8"))
    with suppress(ValidationError):  # of a key that is no more
        told = Config.model_validate(told).model_dump(mode="json")
    old, new = flattened(told), flattened(config.model_dump(mode="json"))
    return [f"{key} ({old.get(key)} there, {new.get(key)} now)" for key in new if old.get(key) != new.get(key)]


def _study_digest(study: Study) -> str:
    content = study.model_dump_json(exclude={"folder"}).encode()
    return _digest(content, study.table_path.read_bytes())


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
