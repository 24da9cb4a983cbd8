"""Reads configurations by Triton's own definition of them, for tests."""

import importlib.util
from importlib.metadata import distribution
from typing import Any

from google.protobuf import text_format


def model_config(text: str) -> Any:
    """Reads a configuration as the server does: what it does not know is refused.

    The definition comes with tritonclient, in a module of its client for gRPC, which would need grpcio.
    """
    place = distribution("tritonclient").locate_file("tritonclient/grpc/model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", str(place))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return text_format.Parse(text, module.ModelConfig())


def type_of(tensor: Any) -> str:
    """Returns the name of the type of an input or output."""
    types = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    return str(types[tensor.data_type].name)
