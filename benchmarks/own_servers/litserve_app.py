"""A LitServe service: one worker process behind its HTTP process."""

import sys
from typing import Any

import litserve
from classifier import Classifier


class ClassifierAPI(litserve.LitAPI):
    """The steps that LitServe asks for."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.classify = Classifier()

    def decode_request(self, request: dict[str, Any]) -> str:
        """The text of a request."""
        return str(request["text"])

    def predict(self, text: str) -> dict[str, object]:
        """Classes of the text."""
        return self.classify(text)

    def encode_response(self, output: dict[str, object]) -> dict[str, object]:
        """As it is."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(ClassifierAPI(), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False)
