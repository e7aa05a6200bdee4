"""The colours of pictures and maps, for who draws without matplotlib too. Blue speaks for REAL, vermilion for AI."""

BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#595959"  # Okabe & Ito's palette: told apart by colour-blind readers too


def levels(colour: str) -> tuple[int, int, int]:
    """``#RRGGBB`` -> its levels, 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
