"""Kinds of single values that Kubernetes has: quantities, names, hosts, ports. Pure."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from dozlab.values import Text, Whole

QUANTITY = r"^[0-9]+(\.[0-9]+)?([eE][0-9]+|[kKMGTP]i?|m)?$"


def _quantity(value: Any) -> Any:
    if value is None:
        return ""
    text = str(value)
    if isinstance(value, bool) or not re.match(QUANTITY, text):
        raise ValueError("not a Kubernetes quantity such as 500m, 2 or 3Gi")
    return text


Quantity = Annotated[
    str, BeforeValidator(_quantity), WithJsonSchema({"type": ["string", "number"], "pattern": QUANTITY, "minimum": 0})
]
Texts = Annotated[dict[str, Text], AfterValidator(lambda value: {key: str(item) for key, item in value.items()})]
Objects = list[dict[str, Any]]
Name = Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$", max_length=253)]
Key = Annotated[str, Field(pattern=r"^[-._a-zA-Z0-9]+$")]
Resource = Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")]
UrlPath = Annotated[str, Field(pattern=r"^/[A-Za-z0-9._~/-]*$")]
Host = Annotated[str, Field(pattern=r"^([a-z0-9*]([-a-z0-9.]*[a-z0-9])?)?$", max_length=253)]
ServicePort = Annotated[Whole, Field(ge=1, le=65535)]
NodePort = Annotated[Whole, Field(ge=0, le=65535)]
AccessMode = Literal["ReadWriteOnce", "ReadWriteMany", "ReadOnlyMany", "ReadWriteOncePod"]
Seconds = Annotated[Whole, Field(ge=0, le=31536000)]
Count = Annotated[Whole, Field(ge=1, le=100000)]
