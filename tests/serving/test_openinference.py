"""A client of Triton works unchanged, and what does not follow the protocol is refused with a reason."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

import steadylens
from steadylens.inference.export import triton_config
from steadylens.inference.signature import Signature, signature_of
from steadylens.serving.openinference import (
    MOST_IMAGES,
    MOST_JSON_VALUES,
    read_request,
    write_response,
)
from steadylens.serving.payloads import HttpError
from tests.reading_triton import model_config, type_of
from tests.serving.servers import Server

IMAGES = np.random.default_rng(0).random((3, 3, 48, 48), dtype=np.float32)


@pytest.fixture
def of_classifier(classifier: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(classifier.address.removeprefix("http://")) as client:
        yield client


@pytest.fixture
def of_restorer(restorer: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(restorer.address.removeprefix("http://")) as client:
        yield client


def test_a_model_repository_offers_a_client_the_same_model_as_the_service(of_classifier: Any) -> None:
    config = model_config(triton_config("sign-gtsrb", signature_of(steadylens.load("sign-gtsrb"))))
    served = of_classifier.get_model_metadata("sign-gtsrb")
    assert served["name"] == config.name
    for offered, tensors in ((served["inputs"], config.input), (served["outputs"], config.output)):
        assert offered == [
            {
                "name": each.name,
                "datatype": type_of(each).replace("TYPE_FP", "FP"),
                "shape": [-1, *each.dims],
            }
            for each in tensors
        ]


def given_to(client: Any, model: str, images: NDArray[np.float32], *, binary: bool, **asked: Any) -> Any:
    tensor = triton.InferInput("images", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return client.infer(model, [tensor], **asked)


def test_a_triton_client_learns_what_is_served(classifier: Server, of_classifier: Any) -> None:
    assert of_classifier.is_server_live()
    assert of_classifier.is_server_ready()
    assert of_classifier.is_model_ready("sign-gtsrb")
    assert of_classifier.is_model_ready("sign-gtsrb", "1")
    assert not of_classifier.is_model_ready("other")
    assert not of_classifier.is_model_ready("sign-gtsrb", "2")
    assert httpx.get(f"{classifier.address}/v2/health/live").json() == {"live": True}
    assert httpx.get(f"{classifier.address}/v2/health/ready").json() == {"ready": True}
    assert httpx.get(f"{classifier.address}/v2/models/sign-gtsrb/ready").json()["ready"] is True
    assert of_classifier.get_server_metadata()["name"] == "steadylens"
    assert of_classifier.get_model_metadata("sign-gtsrb") == {
        "name": "sign-gtsrb",
        "versions": ["1"],
        "platform": "steadylens",
        "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 48, 48]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 43]}],
    }


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_a_triton_client_gets_the_logits_of_the_net(
    of_classifier: Any, binary_in: bool, binary_out: bool
) -> None:
    expected = steadylens.load("sign-gtsrb")(torch.from_numpy(IMAGES))
    wanted = [triton.InferRequestedOutput("logits", binary_data=binary_out)]
    for outputs in (wanted, None):
        reply = given_to(
            of_classifier, "sign-gtsrb", IMAGES, binary=binary_in, outputs=outputs, request_id="7"
        )
        torch.testing.assert_close(torch.tensor(reply.as_numpy("logits")), expected, atol=1e-4, rtol=0)
        assert reply.get_response()["id"] == "7"
        assert reply.get_response()["model_name"] == "sign-gtsrb"


@pytest.mark.parametrize("binary", [True, False])
def test_a_triton_client_gets_names_of_classes(of_classifier: Any, binary: bool) -> None:
    values, numbers = steadylens.load("sign-gtsrb")(torch.from_numpy(IMAGES)).topk(2)
    wanted = [triton.InferRequestedOutput("logits", binary_data=binary, class_count=2)]
    found = given_to(of_classifier, "sign-gtsrb", IMAGES, binary=True, outputs=wanted).as_numpy("logits")
    assert found.shape == (3, 2)
    names = steadylens.card("sign-gtsrb").classes
    texts = [each.decode() if isinstance(each, bytes) else each for each in found.flatten()]
    for text, value, number in zip(texts, values.flatten().tolist(), numbers.flatten().tolist(), strict=True):
        told, index, name = text.split(":", 2)
        assert float(told) == pytest.approx(value, abs=1e-4)
        assert (int(index), name) == (number, names[number])


@pytest.mark.parametrize("shape", [(2, 3, 20, 31), (1, 3, 2, 1)])
def test_a_triton_client_gets_restored_images(of_restorer: Any, shape: tuple[int, ...]) -> None:
    assert of_restorer.get_model_metadata("l3-gtsrb")["inputs"][0]["shape"] == [-1, 3, -1, -1]
    images = np.random.default_rng(1).random(shape, dtype=np.float32)
    found = given_to(of_restorer, "l3-gtsrb", images, binary=True).as_numpy("restored")
    expected = steadylens.restore(torch.from_numpy(images), "l3-gtsrb").numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_triton_client_is_told_why_it_is_refused(of_classifier: Any) -> None:
    with pytest.raises(InferenceServerException, match="this service has sign-gtsrb") as caught:
        given_to(of_classifier, "other", IMAGES, binary=True)
    assert caught.value.status() == "404"
    with pytest.raises(InferenceServerException, match=r"it must be \[-1, 3, 48, 48\]") as caught:
        given_to(of_classifier, "sign-gtsrb", IMAGES[..., 1:], binary=True)
    assert caught.value.status() == "400"


def test_requests_for_tensors_are_counted_with_the_others(classifier: Server, of_classifier: Any) -> None:
    name = 'steadylens_requests_total{status="200"}'
    before = classifier.figure(name)
    given_to(of_classifier, "sign-gtsrb", IMAGES, binary=True)
    assert classifier.figure(name) == before + 1


def test_a_request_as_the_protocol_writes_it_is_answered_in_json(classifier: Server) -> None:
    tensor = {"name": "images", "shape": [1, 3, 48, 48], "datatype": "FP32", "data": IMAGES[:1].tolist()}
    for version in ("", "/versions/1"):
        reply = httpx.post(
            f"{classifier.address}/v2/models/sign-gtsrb{version}/infer", json={"inputs": [tensor]}
        )
        assert reply.status_code == 200, reply.text
        assert reply.headers["content-type"] == "application/json"
        (output,) = reply.json()["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [1, 43])
        expected = steadylens.load("sign-gtsrb")(torch.from_numpy(IMAGES[:1]))[0]
        torch.testing.assert_close(torch.tensor(output["data"]), expected, atol=1e-4, rtol=0)


FREE, FIXED = Signature(), Signature(size=(2, 2), classes=3)
TENSOR = {"name": "images", "shape": [1, 3, 1, 2], "datatype": "FP32", "data": [0, 0.5, 1, 0, 0, 0]}


def refused(
    asked: object, *, rest: bytes = b"", length: str | None = None, signature: Signature = FREE
) -> HttpError:
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    if rest:
        length = str(len(body))
    with pytest.raises(HttpError) as caught:
        read_request(body + rest, length, signature, most_pixels=10_000)
    return caught.value


def tensor(**changes: object) -> dict[str, object]:
    return {"inputs": [{**TENSOR, **changes}]}


@pytest.mark.parametrize(
    "asked",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        b"\xff",
        {},
        {"inputs": []},
        {"inputs": [TENSOR, TENSOR]},
        {"inputs": ["images"]},
        {"inputs": [TENSOR], "id": 7},
        {"inputs": [TENSOR], "parameters": []},
        {"inputs": [TENSOR], "outputs": [{"name": "logits"}]},
        {"inputs": [TENSOR], "outputs": {"name": "restored"}},
        {"inputs": [TENSOR], "outputs": [{"name": "restored", "parameters": {"binary_data": 1}}]},
        {"inputs": [TENSOR], "outputs": [{"name": "restored", "parameters": {"classification": 1}}]},
        {"inputs": [TENSOR], "parameters": {"sequence_id": 3}},
        tensor(name="image"),
        tensor(datatype="UINT8"),
        tensor(shape=None),
        tensor(shape=[1, 3, 2]),
        tensor(shape=[1, 1, 2, 3]),
        tensor(shape=[1, 3, 1, 2.0]),
        tensor(shape=[True, 3, 1, 2]),
        tensor(shape=[0, 3, 1, 2]),
        tensor(shape=[1, 3, 1, 3]),
        tensor(shape=[1, 3, -1, -2]),
        tensor(data=None),
        tensor(data=1),
        tensor(data=["0"] * 6),
        tensor(data=[[0, 0], [0]]),
        tensor(data=[None] * 6),
        tensor(data=[True] * 6),
        tensor(data=[0] * 5),
        tensor(data=[0] * 5 + [3]),
        tensor(data=[0] * 5 + [float("nan")]),
        tensor(data=[0] * 5 + [1e300]),
        tensor(data=[0] * 5 + [10**30]),
        tensor(parameters={"binary_data_size": 24}),
        tensor(parameters={"shared_memory_region": "a"}),
    ],
    ids=lambda asked: str(asked)[-40:],
)
def test_what_the_protocol_does_not_allow_is_refused(asked: object) -> None:
    refusal = refused(asked)
    assert refusal.status == 400
    assert len(refusal.reason) < 300


@pytest.mark.parametrize(
    ("size", "rest"), [(24, bytes(23)), (24, bytes(25)), (23, bytes(23)), ("24", bytes(24))]
)
def test_binary_data_of_another_length_are_refused(size: object, rest: bytes) -> None:
    assert refused(tensor(parameters={"binary_data_size": size}), rest=rest).status == 400


@pytest.mark.parametrize("length", ["", "-1", "1e3", "9999999", "9" * 50, "\u0663"])
def test_a_wrong_length_of_the_json_is_refused(length: str) -> None:
    assert refused(tensor(), length=length).status == 400


@pytest.mark.parametrize("classes", [0, -1, True, "1", 1.5])
def test_a_wrong_number_of_classes_is_refused(classes: object) -> None:
    inputs = tensor(shape=[1, 3, 2, 2], data=[0] * 12)
    outputs = [{"name": "logits", "parameters": {"classification": classes}}]
    assert refused({**inputs, "outputs": outputs}, signature=FIXED).status == 400


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ([MOST_IMAGES + 1, 3, 1, 1], "at most 256"),
        ([1, 3, 101, 100], "10,000 are read"),
        ([2, 3, 51, 100], "10,000 are read"),
    ],
)
def test_too_many_images_or_pixels_are_refused_before_they_are_read(shape: list[int], reason: str) -> None:
    refusal = refused(tensor(shape=shape))
    assert (refusal.status, reason in refusal.reason) == (413, True)


def test_too_many_values_in_json_are_refused() -> None:
    side = 600
    assert 3 * side**2 > MOST_JSON_VALUES
    shape, size = [1, 3, side, side], 12 * side**2
    asked = json.dumps(tensor(shape=shape)).encode()
    with pytest.raises(HttpError, match="use binary data") as caught:
        read_request(asked, None, FREE, most_pixels=side**2)
    assert caught.value.status == 413
    binary = json.dumps(tensor(shape=shape, parameters={"binary_data_size": size})).encode()
    with pytest.raises(HttpError, match="use binary data") as caught:
        read_request(binary + bytes(size), str(len(binary)), FREE, most_pixels=side**2)
    assert caught.value.status == 413


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(field=st.sampled_from(sorted(TENSOR)), value=json_values, parameters=json_values, output=json_values)
def test_any_json_is_read_or_refused_and_nothing_else(
    field: str, value: object, parameters: object, output: object
) -> None:
    asked = {**tensor(**{field: value, "parameters": parameters}), "outputs": [output], "parameters": value}
    for each in (asked, value, tensor(**{field: value})):
        assert status_of(each) in (200, 400, 413)


def status_of(asked: object) -> int:
    try:
        request = read_request(json.dumps(asked).encode(), None, FREE, most_pixels=10_000)
    except HttpError as refusal:
        return refusal.status
    content, _ = write_response("it", request, list(request.images), FREE, ())
    assert json.loads(content)["outputs"][0]["shape"] == list(request.images.shape)
    return 200


@pytest.mark.parametrize("low", [0, -1])
def test_images_that_are_not_in_the_unit_range_are_refused_as_in_python(low: int) -> None:
    images = np.linspace(low, 255 if low == 0 else 1, 300, dtype=np.float32).reshape(1, 3, 10, 10)
    asked = tensor(shape=list(images.shape), data=images.flatten().tolist())
    refusal = refused(asked)
    assert refusal.status == 400
    for part in ("must lie in [0, 1]", "divide grey levels by 255", "undo a normalisation"):
        assert part in refusal.reason
