"""The Open Inference Protocol, version 2: tensors in, tensors out, as clients of KServe and Triton speak it.

The one input and the one output are named as in exported files. Requests and responses are JSON; tensors may
follow it as bytes, by Triton's extension for binary data. By Triton's extension for classification, a client
gets the most probable classes with their names instead of logits.
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steadylens.errors import ImageError
from steadylens.images.tensors import check_range
from steadylens.inference.signature import INPUT, Signature
from steadylens.serving.payloads import HttpError, class_name

VERSION = "1"
"""The only version of the model."""

EXTENSIONS = ("binary_tensor_data", "classification")
"""The extensions of the protocol that are understood."""

HEADER_LENGTH = "inference-header-content-length"
"""The header that tells the length of the JSON if tensors follow it as bytes."""

MOST_IMAGES = 256
"""The most images in a request."""

MOST_JSON_VALUES = 2**20
"""The most values of a tensor in JSON, which is slow; more must come and go as binary data."""

_DATATYPE, _LOWEST, _HIGHEST = "FP32", -1.0, 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class InferRequest:
    """What a client asks for.

    Attributes:
        images: float32 (N, C, H, W).
        number: The client's own name of the request, or None.
        binary: Whether the output is to be sent as bytes.
        top: How many of the most probable classes are to be sent instead of logits, or None.
    """

    images: Tensor
    number: str | None
    binary: bool
    top: int | None


def model_metadata(name: str, signature: Signature) -> dict[str, Any]:
    """Returns the description of the model that the protocol prescribes."""
    return {
        "name": name,
        "versions": [VERSION],
        "platform": "steadylens",
        "inputs": [{"name": INPUT, "datatype": _DATATYPE, "shape": _free(signature.input_shape)}],
        "outputs": [
            {"name": signature.output, "datatype": _DATATYPE, "shape": _free(signature.output_shape)}
        ],
    }


def _free(shape: Sequence[int | str]) -> list[int]:
    return [side if isinstance(side, int) else -1 for side in shape]


def read_request(
    body: bytes, header_length: str | None, signature: Signature, *, most_pixels: int
) -> InferRequest:
    """Reads the body of a request for inference.

    Args:
        body: JSON, and tensors as bytes if there is a header length.
        header_length: The value of `HEADER_LENGTH`, or None.
        signature: What the net reads and returns.
        most_pixels: The largest width times height of all images together.

    Raises:
        HttpError: 400 if the request is not understood or does not fit the net, 413 if it is too large.
    """
    asked, rest = _split(body, header_length)
    number = asked.get("id")
    if number is not None and not isinstance(number, str):
        raise HttpError(400, "the id of the request is no text; leave it out, or send text")
    tensors = asked.get("inputs")
    if not isinstance(tensors, list) or len(tensors) != 1 or not isinstance(tensors[0], dict):
        raise HttpError(400, f"inputs must be a list of one tensor, {INPUT}")
    binary, top = _output_wanted(asked, signature)
    images = _images(tensors[0], rest, signature, most_pixels)
    if not binary and not signature.classes and images.numel() > MOST_JSON_VALUES:
        raise HttpError(413, f"the output has {images.numel():,} values; {_AS_BINARY}")
    return InferRequest(images=images, number=number, binary=binary, top=top)


_AS_BINARY = f"at most {MOST_JSON_VALUES:,} are sent as JSON, use binary data or fewer images"


def _split(body: bytes, header_length: str | None) -> tuple[dict[str, Any], bytes]:
    """Returns the JSON of a body and the bytes behind it."""
    length = len(body)
    if header_length is not None:
        digits = header_length.isascii() and header_length.isdecimal() and len(header_length) < 12
        if not digits or int(header_length) > length:
            raise HttpError(400, f"{HEADER_LENGTH} is {header_length[:20]!r}, the body has {length} bytes")
        length = int(header_length)
    try:
        asked = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise HttpError(400, "the request is not valid JSON; send inputs as the protocol says") from error
    if not isinstance(asked, dict):
        raise HttpError(400, "the request is JSON but no object; send inputs as the protocol says")
    return asked, body[length:]


def _parameters(owner: Mapping[str, Any]) -> Mapping[str, Any]:
    found = owner.get("parameters", {})
    if not isinstance(found, dict):
        raise HttpError(400, "parameters must be an object of names and values")
    for name in ("shared_memory_region", "sequence_id"):
        if found.get(name):
            raise HttpError(400, f"the parameter {name} is not understood; there is {', '.join(EXTENSIONS)}")
    return found


def _output_wanted(asked: Mapping[str, Any], signature: Signature) -> tuple[bool, int | None]:
    """Returns whether the output is sent as bytes, and how many classes are, or None for the whole output."""
    binary: Any = _parameters(asked).get("binary_data_output", False)
    top: Any = None
    outputs = asked.get("outputs")
    if outputs:  # without any, all of them are sent
        wanted = outputs[0] if isinstance(outputs, list) and len(outputs) == 1 else None
        if not isinstance(wanted, dict) or wanted.get("name") != signature.output:
            raise HttpError(400, f"outputs must be a list of one output, {signature.output}")
        parameters = _parameters(wanted)
        binary = parameters.get("binary_data", binary)
        top = parameters.get("classification")
    if not isinstance(binary, bool):
        raise HttpError(400, "binary_data must be true or false")
    if top is None:
        return binary, None
    if signature.classes is None or isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise HttpError(400, "classification must be a number of classes, at least 1, of a classifier")
    return binary, min(top, signature.classes)


def _images(tensor: Mapping[str, Any], rest: bytes, signature: Signature, most_pixels: int) -> Tensor:
    if tensor.get("name") != INPUT or tensor.get("datatype") != _DATATYPE:
        raise HttpError(400, f"the input must be named {INPUT} and have the datatype {_DATATYPE}")
    shape = _shape(tensor.get("shape"), signature)
    if shape[0] * math.prod(shape[-2:]) > most_pixels:
        raise HttpError(
            413, f"the images have {math.prod(shape[-2:]):,} pixels each, {most_pixels:,} are read at a time"
        )
    size = _parameters(tensor).get("binary_data_size")
    if size is None:
        values = _listed(tensor.get("data"), math.prod(shape))
    elif size != len(rest) or size != 4 * math.prod(shape) or isinstance(size, bool):
        raise HttpError(
            400,
            f"the shape {shape} needs {4 * math.prod(shape)} bytes, binary_data_size is {size!r:.20} and "
            f"{len(rest)} bytes follow the JSON",
        )
    else:
        values = np.frombuffer(rest, "<f4").astype(np.float32)
    if not np.isfinite(values).all():
        raise HttpError(400, "values are not finite; images are RGB in [0, 1]")
    images = torch.from_numpy(values.reshape(shape))
    try:
        check_range(images)
    except ImageError as error:
        raise HttpError(400, str(error)) from error
    if not ((values >= _LOWEST) & (values <= _HIGHEST)).all():
        raise HttpError(
            400,
            f"values reach from {values.min():.3g} to {values.max():.3g}, beyond [{_LOWEST:g}, "
            f"{_HIGHEST:g}]; images are RGB in [0, 1], divide grey levels by 255",
        )
    return images


def _shape(shape: Any, signature: Signature) -> tuple[int, ...]:
    wanted = _free(signature.input_shape)
    least = (1, 1, signature.minimum_size, signature.minimum_size)
    fits = (
        isinstance(shape, list)
        and len(shape) == len(wanted)
        and all(isinstance(side, int) and not isinstance(side, bool) for side in shape)
        and all(want in (-1, side) for want, side in zip(wanted, shape, strict=True))
        and all(side >= low for low, side in zip(least, shape, strict=True))
    )
    if not fits:
        raise HttpError(
            400, f"the shape of {INPUT} is {shape!r:.60}, it must be {wanted} (-1 is free), at least {least}"
        )
    if shape[0] > MOST_IMAGES:
        raise HttpError(413, f"the request has {shape[0]:,} images, at most {MOST_IMAGES} are read at a time")
    return tuple(shape)


def _listed(data: Any, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Returns the values of a tensor in JSON, which may be a flat list or a nested one."""
    if count > MOST_JSON_VALUES:
        raise HttpError(413, f"the input has {count:,} values; {_AS_BINARY}")
    try:
        values = np.array(data)
    except (ValueError, OverflowError, RecursionError) as error:  # uneven lists, or numbers beyond all bounds
        raise HttpError(400, "data must be a list of numbers, flat or nested evenly") from error
    if values.dtype.kind not in "iuf" or values.ndim == 0:
        raise HttpError(400, "data must be a list of numbers, flat or nested evenly")
    if values.size != count:
        raise HttpError(400, f"data has {values.size} values, the shape needs {count}")
    with np.errstate(over="ignore"):  # what becomes infinite is refused afterwards
        return values.ravel().astype(np.float32)


def write_response(
    name: str, request: InferRequest, results: Sequence[Tensor], signature: Signature, classes: Sequence[str]
) -> tuple[bytes, dict[str, str]]:
    """Writes the response to a request for inference.

    Args:
        name: The name of the model.
        request: The request.
        results: The net's result for each image.
        signature: What the net reads and returns.
        classes: Names of a classifier's classes.

    Returns:
        The content of the response and its headers.
    """
    datatype, values = _DATATYPE, torch.stack(list(results)).to(torch.float32)
    output: dict[str, Any] = {"name": signature.output}
    if request.top is None:
        shape = list(values.shape)
        listed: list[Any] = [] if request.binary else values.flatten().tolist()
        raw = values.numpy().astype("<f4").tobytes() if request.binary else b""
    else:
        datatype, shape = "BYTES", [len(values), request.top]
        listed = [text for logits in values for text in _most_probable(logits, request.top, classes)]
        raw = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in listed)
    output |= {"datatype": datatype, "shape": shape}
    output |= {"parameters": {"binary_data_size": len(raw)}} if request.binary else {"data": listed}
    answer: dict[str, Any] = {"model_name": name, "model_version": VERSION}
    answer |= {} if request.number is None else {"id": request.number}
    head = json.dumps(answer | {"outputs": [output]}).encode()
    if not request.binary:
        return head, {"content-type": "application/json"}
    return head + raw, {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(head))}


def _most_probable(logits: Tensor, top: int, classes: Sequence[str]) -> list[str]:
    """Returns the classes as Triton writes them: VALUE:NUMBER:NAME."""
    values, numbers = logits.topk(top)
    return [
        f"{value:f}:{number}:{class_name(classes, number)}"
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True)
    ]
