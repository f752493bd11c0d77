"""Where a schedule is read from: a Schedule, a list, a YAML or JSON file, such text, or the name of a preset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .recipes import RECIPES
from .schedule import Schedule
from .shapes import choice


def read_schedule(spec: Any) -> Schedule:
    """The schedule that ``spec`` stands for.

    It is a Schedule, a list of phases, or a string: the path of a ``.yaml``, ``.yml`` or ``.json`` file, the list
    itself in JSON or YAML, or a preset with its arguments, ``"wsd,cooldown=0.1,warmup=500"``. A file may hold the list
    under the key ``schedule``.

    Raises:
        ValueError: a string that is none of these, a file that is not there, a list that is no schedule.
        TypeError: something else.

    >>> read_schedule("linear,warmup=100")
    Schedule(start=0).to(1, 100, grid='open').to(0)
    >>> read_schedule('[{"start": 0, "to": 1, "steps": 100}, {"hold": "rest"}]')
    Schedule(start=0).to(1, 100).hold()
    """
    if isinstance(spec, Schedule):
        return spec
    if not isinstance(spec, str):
        return Schedule.from_list(spec)
    text = spec.strip()
    if text.startswith(("[", "-")):
        return _from_data(_parsed(spec, "the schedule"), "the schedule")
    if text.endswith((".yaml", ".yml", ".json")):
        path = Path(text).expanduser()
        if not path.is_file():
            raise ValueError(f"there is no file {text!r} to read a schedule from")
        return _from_data(_parsed(path.read_text(encoding="utf-8"), text), text)
    return _from_preset(text)


def _from_data(data: Any, where: str) -> Schedule:
    if isinstance(data, Mapping):
        if "schedule" not in data:
            raise ValueError(f"{where}: expected a list of phases, or one under the key 'schedule'; found {list(data)}")
        data = data["schedule"]
    return read_schedule(data)


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        import yaml
    except ImportError as error:
        raise ValueError(
            f'{where} is no JSON, and to read YAML PyYAML is needed: pip install "optzoo[schedulers]"'
        ) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is neither JSON nor YAML: {error}") from error


def _from_preset(text: str) -> Schedule:
    name, *arguments = (part.strip() for part in text.split(","))
    choice("schedule", name, RECIPES)
    keywords = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f"{text!r}: {argument!r} is no argument; write name=value, such as 'wsd,cooldown=0.1'")
        if key.strip() in keywords:
            raise ValueError(f"{text!r}: {key.strip()} is given twice")
        keywords[key.strip()] = _value(value.strip())
    try:
        return RECIPES[name](**keywords)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{text!r}: {error}") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
