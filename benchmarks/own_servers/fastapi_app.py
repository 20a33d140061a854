"""A FastAPI service, as its documentation has it."""

from classifier import Classifier
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
classify = Classifier()


class Text(BaseModel):
    """A request."""

    text: str


@app.get("/health")
def health() -> dict[str, bool]:
    """Ready once this file is loaded."""
    return {"ok": True}


@app.post("/predict")
async def predict(request: Text) -> dict[str, object]:
    """Classes of the text."""
    return classify(request.text)
