"""Configurations read from YAML and `key=value`, with errors that a person understands."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from gim_audio.config.schema import Config
from gim_audio.errors import ConfigError, DataError
from gim_audio.files import read_text

__all__ = ["count_of", "load", "read_yaml", "short"]

SHOWN = 100
"""The letters of a wrong value that a message shows."""
PROBLEMS = 5
"""The wrong values that a message shows."""
LONGEST = 2**20
"""The letters that a configuration may have."""


def load(path: Path | str | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a configuration file and apply `key=value` overrides such as `training.steps=500`.

    Raises:
        ConfigError: a key is unknown, a value has the wrong type or is impossible; names all of
            them.
    """
    settings = _read(Path(path)) if path else {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ConfigError(
                f"{short(override)}: not of the form key=value, such as training.steps=500"
            )
        *sections, name = key.split(".")
        section = settings
        for part in sections:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise ConfigError(f"{override}: {part} is a value, not a section")
        try:
            section[name] = _parse(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"{short(override)}: {short(value)} is not YAML") from error
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{path or 'configuration'}: {_explain(error)}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_yaml(read_text(path), str(path))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except DataError as error:
        raise ConfigError(str(error)) from error


def read_yaml(text: str, name: str) -> dict[str, Any]:
    """Return the sections of a configuration as they stand.

    Args:
        text: YAML. Aliases are refused, which can make a file of a few lines fill the memory.
        name: The name for error messages.

    Raises:
        ConfigError: It is not YAML, a key stands twice, or it is nothing with sections.
    """
    try:
        settings = _parse(text)
    except (
        yaml.YAMLError,
        ValueError,
    ) as error:  # ValueError: a number or date that Python does not take
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else None
        if problem and problem.startswith(TWICE):
            raise ConfigError(f"{name}: {problem.removeprefix(TWICE)}") from error
        raise ConfigError(f"{name}: not YAML: {short(' '.join(str(error).split()))}") from error
    except RecursionError as error:
        raise ConfigError(
            f"{name}: not a configuration: its brackets lie too deep in each other"
        ) from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        found = short(repr(settings))
        raise ConfigError(
            f"{name}: expected sections (model, objective, data, training), found {found}"
        )
    return settings


TWICE = "twice: "


class _Loader(yaml.SafeLoader):
    """A loader of YAML that refuses aliases and keys that stand twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not taken")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            name, line = key.value, key.start_mark.line + 1
            if isinstance(name, str) and name in lines:
                where = f"lines {lines[name]} and {line}" if lines[name] != line else f"line {line}"
                raise yaml.MarkedYAMLError(problem=f"{TWICE}{short(name)} stands twice, in {where}")
            if isinstance(name, str):
                lines[name] = line
        return super().construct_mapping(node, deep)


def _parse(text: str) -> Any:
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text)} letters, more than any configuration")
    return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader


def count_of(text: str) -> int | None:
    """Return a whole number of at most nine digits; None where a text is something else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def short(text: str) -> str:
    """Return the beginning of a text that may be long."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _explain(error: ValidationError) -> str:
    """Return one sentence for each key that is wrong.

    Of a value that could have been several things, it says what is wrong with the likeliest.
    """
    found: dict[str, str] = {}
    for problem in error.errors():
        parts = [str(part) for part in problem["loc"]]
        where = ".".join(
            part for part in parts if not {"[", "-"} & set(part) and not part.endswith("Config")
        )
        what = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            what = "unknown key"
        given = f" (given {short(_written(problem['input']))})"
        if problem["type"] in {"extra_forbidden", "value_error"}:
            given = ""
        where = short(where)
        found.setdefault(where, f"{where}: {what}{given}" if where else what)
    lines = [
        line
        for key, line in found.items()
        if not any(other.startswith(f"{key}.") for other in found)
    ]
    more = [f"and {len(lines) - PROBLEMS} more"] if len(lines) > PROBLEMS else []
    return "; ".join(lines[:PROBLEMS] + more)


def _written(value: object) -> str:
    """Return a value as a person wrote it, as far as it is shown."""
    try:
        return repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
