"""A form cut into its files: in whatever pieces it comes, by whatever client it was written, within its limits."""

import gc

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from python_multipart.multipart import parse_options_header

from lightning_cifake.deploy.load import Encoded
from lightning_cifake.serve.bodies import _USUAL, PART_HEADER_BYTES, Form, _options
from lightning_cifake.serve.errors import Refused

KIND = "multipart/form-data; boundary=a-b"
PART = b'--a-b\r\nContent-Disposition: form-data; name="files"; filename="%b"\r\nContent-Type: image/png\r\n\r\n%b\r\n'
END = b"--a-b--\r\n"


def read(body: bytes, size: int = 10**9, kind: str = KIND) -> list[Encoded]:
    form = Form(kind, 3)
    for at in range(0, len(body), size):
        form.write(body[at : at + size])
    return form.images()


@seed(0)
@settings(max_examples=200, deadline=None, database=None)
@given(
    contents=st.lists(
        st.lists(st.sampled_from([b"\r\n", b"--", b"a-b", b"\r", b"-", b"x", b"\0"]), max_size=8).map(b"".join).filter(
            lambda content: b"--a-b" not in content), min_size=1, max_size=3),
    size=st.integers(1, 80),
)  # fmt: skip
def test_files_are_those_that_were_sent_in_whatever_pieces_they_come(contents, size):
    body = b"".join(PART % (b"%d.png" % number, content) for number, content in enumerate(contents))
    expected = [Encoded(f"{number}.png", content) for number, content in enumerate(contents)]
    assert read(body + END, size) == expected


PARAMETERS = st.lists(
    st.tuples(
        st.sampled_from(["; ", ";", " ;", ";  "]),
        st.sampled_from(["name", "filename", "Filename", "boundary", "charset", "filename*"]),
        st.sampled_from(["=", " = "]),
        st.sampled_from(['"a"', '"a b.png"', '"a;b"', '"a\\"b"', '"a\\\\b"', '"C:\\x.png"', '""', '"', '"a', "a",
                         "a-b.c_d", "a'b", '"a=b"', '"\xe4"', "\xe4", '"a\tb"', "a/b", "", '"%41"',
                         '" a "', "a b", '"a"b"']),
    ).map("".join),
    max_size=3,
)  # fmt: skip


@seed(0)
@settings(max_examples=300, deadline=None, database=None)
@given(kind=st.sampled_from(["form-data", "multipart/form-data", "Form-Data", " form-data"]), parameters=PARAMETERS)
def test_a_headers_parameters_are_those_of_the_general_parser(kind, parameters):
    header = (kind + "".join(parameters)).encode("latin-1")
    assert _options(header) == parse_options_header(header)[1]


@pytest.mark.parametrize(
    "header",
    [
        b'form-data; name="files"; filename="a b.jpg"',  # browsers, curl, httpx
        b'form-data; name="files"; filename="\xc3\xa4.jpg"',
        b"multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
        b"multipart/form-data; boundary=------------------------d74496d66958873e",
    ],
)
def test_what_clients_write_is_the_usual_form(header):
    assert _USUAL.fullmatch(header)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (PART % (b"1", b"x") * 3 + PART[:-4] % b"4", 413, "at most 3 pictures"),  # before it is here as a whole
        (b'--a-b\r\nContent-Disposition: form-data; name="other"; filename="a"\r\n\r\n', 422, "got a file in `other`"),
        (b'--a-b\r\nContent-Disposition: form-data; name="files"\r\n\r\n', 422, "got text in `files`"),
        (b'--a-b\r\nContent-Disposition: form-data; filename="a"\r\n\r\n', 400, "a part has no name"),
        (b"--a-b\r\nContent-Type: image/png\r\n\r\n", 400, "a part has no name"),
        (b"--a-b\r\nX: " + b"a" * (PART_HEADER_BYTES + 1), 400, ""),
        (b"--a-b\r\n" + b"X" * (PART_HEADER_BYTES + 1), 400, ""),
        (b"--a-c\r\n", 400, "no multipart/form-data"),
        (PART % (b"1", b"x"), 400, "before its last boundary"),
        (b"", 400, "before its last boundary"),
        (END, 422, "got none"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 1000, 10**9])
def test_what_is_no_form_of_files_is_refused(body, status, words, size):
    with pytest.raises(Refused) as refused:
        read(body, size)
    assert refused.value.status == status and words in refused.value.reason


@pytest.mark.parametrize("kind", ["multipart/form-data", f"{KIND[:29]}=", f"{KIND[:29]}={'a' * 300}"])
def test_a_form_without_a_boundary_that_can_be_is_refused(kind):
    with pytest.raises(Refused) as refused:
        read(PART % (b"1", b"x") + END, kind=kind)
    assert refused.value.status == 400


def test_a_form_that_was_read_leaves_no_picture_for_the_garbage_collector():
    read(PART % (b"1", b"x") + END)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            read(PART % (b"1", b"x") + END)
        assert gc.collect() < 20
    finally:
        gc.enable()
