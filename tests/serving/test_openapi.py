"""The description of the service tells all paths, and what is made from it is answered as it says.

The requests are made by schemathesis, from the description that a running server gives of itself.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import torch
from starlette.applications import Starlette
from starlette.routing import Route

import steadylens
from steadylens.errors import SettingError
from steadylens.inference.signature import Signature
from steadylens.serving.batching import Batching
from steadylens.serving.payloads import Classifying, Predictor, Restoring, UploadLimits
from steadylens.serving.service import Service
from tests.serving.servers import Server

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,missing_required_header,unsupported_method"
)


def service(name: str, origins: tuple[str, ...] = ()) -> Service:
    predictor: Predictor = Restoring(lambda images: images, Signature())
    if name == "sign-gtsrb":
        signature = Signature(size=(48, 48), classes=43)
        predictor = Classifying(torch.nn.Flatten(), torch.device("cpu"), signature=signature, classes=())
    limits, batching = UploadLimits(), Batching()
    return Service(predictor, steadylens.card(name), limits=limits, batching=batching, origins=origins)


@pytest.mark.parametrize("name", ["sign-gtsrb", "l3-gtsrb"])
def test_every_path_and_method_is_described_and_no_other(name: str) -> None:
    served = service(name)
    application = served.application()
    assert isinstance(application, Starlette)
    routes = [route for route in application.routes if isinstance(route, Route)]
    answered = {
        (route.path, method) for route in routes for method in (route.methods or ()) if method != "HEAD"
    }
    schema = served.schema()
    described = {
        (path, method.upper())
        for path, methods in schema["paths"].items()
        for method in methods
        if method != "parameters"
    }
    assert described == answered
    references = set(re.findall(r"#/components/(\w+)/([\w-]+)", str(schema)))
    assert references == {(kind, each) for kind, parts in schema["components"].items() for each in parts}, (
        "each part is used, and each that is used is there"
    )


def test_each_task_has_its_own_response() -> None:
    of_classifier, of_restorer = (
        service(name).schema()["paths"]["/predict"]["post"] for name in ("sign-gtsrb", "l3-gtsrb")
    )
    assert list(of_classifier["responses"]["200"]["content"]) == ["application/json"]
    assert list(of_restorer["responses"]["200"]["content"]) == ["image/png", "application/zip"]
    assert [each["name"] for each in of_classifier["parameters"]] == ["top"]
    assert [each["name"] for each in of_restorer["parameters"]] == ["strength"]


def test_whatever_is_made_from_the_description_is_answered_as_it_says(
    classifier: Server, tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{classifier.address}/openapi.json"),
        *("--checks", CHECKS, "--phases", "coverage,fuzzing", "--max-examples", "5"),
        *("--exclude-path-regex", "/versions/"),  # the same again
        *("--generation-deterministic", "--warnings", "off", "--no-color"),
    ]
    result = subprocess.run(
        command, cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    assert "11 selected" in result.stdout
    tried = re.search(r"(\d+) generated", result.stdout)
    assert tried
    assert int(tried[1]) > 200


def test_the_page_describes_every_path_and_loads_nothing(classifier: Server) -> None:
    reply = httpx.get(f"{classifier.address}/docs")
    assert reply.headers["content-type"].startswith("text/html")
    assert reply.headers["content-security-policy"].startswith("default-src 'none'")
    for path in httpx.get(f"{classifier.address}/openapi.json").json()["paths"]:
        assert f"<code>{path}</code>" in reply.text
    assert not re.search(r"<script|<img|<link|\bsrc=|url\(|@import", reply.text)
    assert set(re.findall(r"https?://[^\s/<\"]+", reply.text)) == {classifier.address}


@pytest.mark.parametrize(
    "origin",
    ["", "example.org", "https://", "https://example.org/", "https://a b", "ftp://a", "null", "*.org"],
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(SettingError, match=r"such as https://example\.org"):
        service("l3-gtsrb", (origin,))


@pytest.mark.parametrize("origin", ["*", "https://example.org", "http://localhost:8080", "http://[::1]:80"])
def test_origins_are_accepted(origin: str) -> None:
    service("l3-gtsrb", (origin,))
