"""Classes by their path, as ``package.module.Class``, with plain arguments: how a network, an optimizer, ... is named.

A specification is ``{"class_path": str, "init_args": {name: plain value}}``, or the path alone.
"""

import difflib
import functools
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from lightning_cifake.errors import UserError
from lightning_cifake.text import printable, reason_of, shorten

Spec = dict[str, Any]

_MISSING = object()
_OF_A_CONSTRUCTOR = (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError, AttributeError)


def normal_spec(spec: str | Mapping[str, Any], key: str, short: Mapping[str, str] | None = None) -> Spec:
    """A name or a mapping as ``{"class_path", "init_args"}``; nothing is imported.

    Args:
        spec: a class path, a short name, or a mapping of ``class_path`` and, where there are any, ``init_args``.
        key: what the messages call it, as ``model.network``.
        short: short names and the class paths that they stand for.

    Raises:
        UserError: it is neither, or an argument is no plain value.
    """
    if isinstance(spec, str):
        spec = {"class_path": spec}
    known = {"class_path", "init_args"}
    if not isinstance(spec, Mapping) or not isinstance(spec.get("class_path"), str) or not known.issuperset(spec):
        got = shorten(printable(spec), 80)
        raise UserError(f"{key}: expected a class path, or class_path and init_args, got {got}")
    arguments = spec.get("init_args")
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, Mapping) or not all(isinstance(name, str) for name in arguments):
        raise UserError(f"{key}.init_args: expected names and values, got {type(arguments).__name__}")
    for name, value in arguments.items():
        if not is_plain(value):
            raise UserError(
                f"{key}.{printable(name)}: expected a plain value (a finite number, text, true or false, null, or "
                f"lists and mappings of them), got {shorten(printable(repr(value)), 60)}"
            )
    path = spec["class_path"].strip()
    return {"class_path": (short or {}).get(path, path), "init_args": dict(arguments)}


def is_plain(value: Any, depth: int = 0) -> bool:
    """A value that YAML and a checkpoint hold as it is, and that names no code."""
    if value is None or isinstance(value, bool | int | str):
        return True
    if isinstance(value, float):
        return math.isfinite(value)
    if depth > 10:
        return False
    if isinstance(value, list | tuple):
        return all(is_plain(each, depth + 1) for each in value)
    if isinstance(value, dict):
        names_code = "class_path" in value
        return not names_code and all(isinstance(k, str) and is_plain(v, depth + 1) for k, v in value.items())
    return False


def import_class(path: str, key: str, base: type, short: Mapping[str, str] | None = None) -> type:
    """The class at a path, or of a short name. A module is found in the current folder too.

    Raises:
        UserError: says which part of the path was not found, or what was found in place of such a class.
    """
    short = short or {}
    shown = f"{key}: {shorten(printable(path), 100)}"
    path = short.get(path, path)
    module_name, _, class_name = path.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in path.split(".")):
        expected = f"{', '.join(short)} or a class path" if short else "a class path"
        raise UserError(f"{shown}: expected {expected} as package.module.Class{_near(path, short)}")
    module = _import(module_name, shown, short)
    found = getattr(module, class_name, _MISSING)
    if found is _MISSING:
        names = [each for each in dir(module) if not each.startswith("_") and _is(getattr(module, each, None), base)]
        near = difflib.get_close_matches(class_name, names, 1)
        hint = f"did you mean {module_name}.{near[0]}?" if near else f"it has {', '.join(names[:8]) or 'none'}"
        raise UserError(f"{shown}: {module_name} has no {class_name}: {hint}")
    if not _is(found, base):
        got = f"class {found.__name__}" if isinstance(found, type) else type(found).__name__
        wanted = f"{base.__module__.partition('.')[0]}'s {base.__name__}"
        raise UserError(f"{shown}: expected a class that is a {wanted}, got {got}")
    return cast(type, found)


def _import(module_name: str, shown: str, short: Mapping[str, str]) -> Any:
    find_in_current_folder(module_name)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = printable(error.name or module_name)
        if module_name == missing or module_name.startswith(f"{missing}."):
            where = "looked for in the current folder and among the installed packages"
            near = _near(module_name.partition(".")[0], short)
            raise UserError(f"{shown}: there is no module {missing} ({where}){near}") from error
        raise UserError(f"{shown}: its module cannot be imported: there is no module {missing}") from error
    except UserError:
        raise
    except Exception as error:  # whatever a module of the user's own raises as it is imported
        said = f"{type(error).__name__}: {reason_of(error)}"
        raise UserError(f"{shown}: its module cannot be imported ({said})") from error


def find_in_current_folder(module_name: str) -> None:
    """Makes it importable, last of all places: ``python -m`` looks there by itself, an installed command does not."""
    top, here = module_name.partition(".")[0], str(Path.cwd())
    is_here = Path(here, f"{top}.py").is_file() or Path(here, top).is_dir()
    if is_here and here not in sys.path and "" not in sys.path:
        sys.path.append(here)
        importlib.invalidate_caches()


def _is(found: Any, base: type) -> bool:
    return isinstance(found, type) and issubclass(found, base)


def _near(name: str, short: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.lower(), list(short), 1)
    return f"; did you mean {near[0]}?" if near else ""


def check_arguments(
    made: Callable[..., Any], arguments: Mapping[str, Any], key: str, given: Iterable[str] = ()
) -> None:
    """Before anything is made.

    Args:
        made: the class.
        arguments: by name, plain.
        key: what the messages call it, as ``model.network``.
        given: the names of what else it is given.

    Raises:
        UserError: an argument that it does not take, with the closest that it does; one of another type than its plain
            annotation; or one that it needs.
    """
    name_of = getattr(made, "__name__", str(made))
    parameters, takes_any = parameters_of(made)
    names = [name for name in parameters if name not in set(given)]
    for name, value in arguments.items():
        if name not in parameters and not takes_any:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(names) or 'none'}"
            raise UserError(f"{key}: {name_of} has no argument {shorten(printable(name), 60)}: {hint}")
        kind = _PLAIN_TYPES.get(parameters[name].annotation) if name in parameters else None
        if kind is not None and not _fits(value, kind):
            got = shorten(printable(repr(value)), 60)
            raise UserError(f"{key}.{name}: expected {_WORDS[kind]}, got {got}")
    empty = inspect.Parameter.empty
    missing = [name for name in names if parameters[name].default is empty and name not in arguments]
    if missing:
        some = "arguments" if len(missing) > 1 else "argument"
        raise UserError(f"{key}: {name_of} needs the {some} {', '.join(missing)} ({key}.{missing[0]})")


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_PLAIN_TYPES: dict[Any, type] = {kind: kind for kind in (bool, int, float, str)}
_PLAIN_TYPES |= {kind.__name__: kind for kind in (bool, int, float, str)}  # from __future__ import annotations


def _fits(value: Any, kind: type) -> bool:
    if kind is float and type(value) is int:
        return True
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)


def parameters_of(made: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """What can be given by name, and whether anything can (``**kwargs``)."""
    found = inspect.signature(made).parameters
    named = {name: p for name, p in found.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, any(p.kind is p.VAR_KEYWORD for p in found.values())


def with_defaults(made: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments that it is made with: what was given, and its own plain defaults."""
    parameters, _ = parameters_of(made)
    own = {name: p.default for name, p in parameters.items() if p.default is not p.empty and is_plain(p.default)}
    return {**own, **arguments}


def construct(made: Callable[..., Any], arguments: Mapping[str, Any], key: str, *first: Any, **also: Any) -> Any:
    """Calls it; what its constructor refuses is one line.

    Raises:
        UserError: as :func:`check_arguments`, or what the constructor says.
    """
    parameters, _ = parameters_of(made)
    check_arguments(made, arguments, key, [*list(parameters)[: len(first)], *also])
    try:
        return made(*first, **arguments, **also)
    except UserError:
        raise
    except _OF_A_CONSTRUCTOR as error:
        raise UserError(f"{key}: {getattr(made, '__name__', made)}: {reason_of(error)}") from error


def path_of(made: Any) -> str | None:
    """The path under which a class or function is imported again; None for one of a script or inside a function."""
    module, name = getattr(made, "__module__", None), getattr(made, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__" or "<" in name:
        return None
    owner: Any = sys.modules.get(module)
    return (
        f"{module}.{name}"
        if functools.reduce(lambda at, part: getattr(at, part, None), name.split("."), owner) is made
        else None
    )
