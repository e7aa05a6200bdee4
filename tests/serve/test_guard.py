"""Who may ask: pages of other origins cannot, by whatever name they come."""

import pytest
from served import picture

from lightning_cifake.serve.guard import Hosts


@pytest.mark.parametrize(
    ("host", "more", "allowed", "refused"),
    [
        ("127.0.0.1", (), ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "localhost."],
         ["evil.example", "localhost.evil.example", "192.168.1.2", "", "127.0.0.1@evil.example", "localhost:x", "a b"]),
        ("127.0.0.1", ("Photos.example.org",), ["photos.example.org", "localhost"], ["example.org"]),
        ("0.0.0.0", (), ["192.168.1.2:8000", "[fe80::1]", "localhost"], ["evil.example", "999.1.1.1"]),
        ("photos.local", (), ["photos.local:80"], ["photos"]),
        ("127.0.0.1", ("*",), ["evil.example"], ["a b", ""]),
    ],
)  # fmt: skip
def test_a_server_goes_by_its_own_names(host, more, allowed, refused):
    hosts = Hosts(host, more)
    assert [name for name in allowed if not hosts.allow(name)] == []
    assert [name for name in refused if hosts.allow(name)] == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:1", "origin": "http://localhost:1"}, 200),
        ({"host": "localhost", "origin": "http://localhost:80"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"host": "evil.example:8000", "origin": "http://evil.example:8000"}, 400),  # a name turned round
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),  # another server of this machine
        ({"origin": "null"}, 403),  # a page in a sandbox, or a file
        ({"origin": "chrome-extension://abc"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_a_form_of_another_page_is_refused(headers, status, client):
    response = client.post("/v1/predict", files={"files": ("a.png", picture())}, headers=headers)
    assert response.status_code == status, response.text
    assert not any(name.startswith("access-control") for name in response.headers)


def test_a_browser_that_asks_whether_it_may_is_told_nothing(client):
    asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    response = client.options("/v1/predict", headers=asked)
    assert response.status_code == 403 and not any(name.startswith("access-control") for name in response.headers)


def test_a_link_from_elsewhere_opens_the_page(client):
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200
