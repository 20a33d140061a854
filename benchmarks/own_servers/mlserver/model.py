"""A custom runtime for MLServer, which speaks the Open Inference Protocol."""

import sys
from pathlib import Path

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from classifier import Classifier


class ClassifierModel(MLModel):
    """One text a request."""

    async def load(self) -> bool:
        """Load the model."""
        self._classify = Classifier()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Label of each text."""
        texts = StringCodec.decode_input(payload.inputs[0])
        labels = np.array([self._classify(text)["label"] for text in texts])
        return InferenceResponse(
            model_name=self.name, outputs=[NumpyCodec.encode_output("label", labels)]
        )
