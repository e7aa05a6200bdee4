"""Text for people: foreign names made safe to print, and reasons that keep the part that says why."""

import re
import unicodedata

LONGEST_REASON = 400  # characters of a library's message that one line keeps


def printable(value: object, exact_bytes: bool = False) -> str:
    """A name or a message in which nothing moves a terminal's cursor, ends a line, or turns the direction of writing.

    Control and format characters (escape sequences, U+202E, zero-width ones), line and paragraph separators, lone
    surrogates and unassigned or private characters are shown as Python writes them: ``\\x1b``, ``\\u202e``. All that
    can be read stays as it is, in any script. A surrogate that stands for a byte of a name which is not UTF-8 is shown
    as that byte; with ``exact_bytes`` it stays, for a stream that writes the byte itself.
    """
    text = str(value)
    if text.isprintable():  # the common case; what it lets pass is harmless
        return text
    return "".join(_escaped(letter, exact_bytes) for letter in text)


def _escaped(letter: str, exact_bytes: bool) -> str:
    if letter == " " or letter.isprintable():
        return letter
    if "\udc80" <= letter <= "\udcff":  # surrogateescape: an undecodable byte of a file's name
        return letter if exact_bytes else f"\\x{ord(letter) - 0xDC00:02x}"
    if unicodedata.category(letter) == "Zs":  # spaces of other widths
        return letter
    return letter.encode("unicode_escape").decode("ascii")


def plural(count: int, one: str, many: str = "") -> str:
    """``1 image``, ``2,000 images``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def shorten(text: str, longest: int = LONGEST_REASON) -> str:
    """Text of at most ``longest`` characters: cut in the middle, because libraries put the reason at the end."""
    if len(text) <= longest:
        return text
    head = (longest - 5) * 2 // 5
    tail = longest - 5 - head
    return f"{text[:head].rstrip()} ... {text[-tail:].lstrip()}"


def one_line(text: str) -> str:
    """Several lines as one: what libraries indent and list is joined by spaces."""
    return " ".join(part for part in (line.strip(" -\t\r") for line in text.splitlines()) if part)


def reason_of(error: BaseException, longest: int = LONGEST_REASON) -> str:
    """Why something failed, as one harmless line: the system's own words of an OSError, else the exception's."""
    if isinstance(error, OSError) and error.strerror:
        return printable(error.strerror)
    return shorten(printable(one_line(str(error))), longest) or type(error).__name__


_MARKDOWN = re.compile(r"[\\`*\[\]<>|#~&]|(?<![^\W_])_|_(?![^\W_])")  # an underscore inside a word is none


def markdown(value: object) -> str:
    """Foreign text for a page in Markdown: read as it is, on one line, in a table's cell too; never markup or HTML."""
    return _MARKDOWN.sub(r"\\\g<0>", printable(value))


def code_span(value: object) -> str:
    """Foreign text between backticks, in Markdown; in a table's cell too."""
    text = printable(value).replace("|", r"\|")  # GitHub takes the backslash away, in code too
    fence = _fence(text, 1)
    pad = " " if len(fence) > 1 or text != text.strip() or not text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def code_block(value: object) -> str:
    """One line of foreign text as a block of code, in Markdown."""
    text = printable(value)
    fence = _fence(text, 3)
    return f"{fence}\n{text}\n{fence}"


def _fence(text: str, least: int) -> str:
    """More backticks than stand side by side in a text."""
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))
