"""`make openapi`: the OpenAPI 3.1 document of the public port, as it is served."""

import json

from tokenworks.app.http_app import openapi_document


def document() -> str:
    return json.dumps(openapi_document(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(document(), end="")
