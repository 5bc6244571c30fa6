"""A dataset version as Croissant 1.1 JSON-LD. Pure.

https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "arrayShape": "cr:arrayShape",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
    "prov": "http://www.w3.org/ns/prov#",
}
PARQUET = "application/x-parquet"
TYPES = {
    "string": "sc:Text",
    "int64": "sc:Integer",
    "int32": "sc:Integer",
    "double": "sc:Float",
    "bool": "sc:Boolean",
}
RECORDS = "rows"


def describe(row: Mapping[str, Any], manifest: Mapping[str, Any], url: str) -> dict[str, Any]:
    """`row` is the version as the gateway knows it, `url` where it is fetched. Nested columns are told as text."""
    data = [item for item in manifest["files"] if item["path"].startswith("data/")]
    files = [_file(number, item, url) for number, item in enumerate(data)]
    fields = [_field(column, files[0]["@id"]) for column in manifest["columns"] if column["type"] in TYPES]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": row["dataset"],
        "description": f"Version {row['id']}: {row['rows']} rows, governed by Heliu.",
        "url": url,
        "version": row["id"],
        "datePublished": row["created_at"].isoformat(),
        "prov:wasDerivedFrom": [{"@id": f"urn:{parent}"} for parent in manifest["parents"]],
        "distribution": files,
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": RECORDS,
                "name": RECORDS,
                "key": {"@id": f"{RECORDS}/_row_id"},
                "field": fields,
            }
        ],
    }


def _file(number: int, item: Mapping[str, Any], url: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": item["path"],
        "name": item["path"],
        "contentUrl": f"{url}/download?format=parquet&part={number}",
        "contentSize": f"{item['bytes']} B",
        "encodingFormat": PARQUET,
        "sha256": item["sha256"],
    }


def _field(column: Mapping[str, Any], file: str) -> dict[str, Any]:
    name = f"{RECORDS}/{column['name']}"
    source = {"fileObject": {"@id": file}, "extract": {"column": column["name"]}}
    kind = TYPES[column["type"]]
    return {"@type": "cr:Field", "@id": name, "name": name, "dataType": kind, "source": source}
