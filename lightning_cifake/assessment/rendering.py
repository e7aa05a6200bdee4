"""The pages' and the card's templates, as jinja2 reads them."""

from typing import TYPE_CHECKING

from lightning_cifake.text import plural

if TYPE_CHECKING:
    from jinja2 import Environment


def environment(escaped: bool) -> "Environment":
    """Of this room's templates; a name that they were not given is an error.

    Args:
        escaped: for HTML, in which what was measured is text.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("lightning_cifake.assessment"),
        autoescape=escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not escaped,
    )
    made.filters["plural"] = plural
    return made
