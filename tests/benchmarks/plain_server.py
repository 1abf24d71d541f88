"""The peer of `bench_serve`: FastAPI with sentence-transformers, as an engineer writes it in an afternoon."""

from __future__ import annotations

import sys

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

app = FastAPI()
encoder = SentenceTransformer(sys.argv[1], device="cpu")
head = torch.nn.Linear(int(encoder.get_sentence_embedding_dimension() or 0), 5)


class Request(BaseModel):
    """A text."""

    inputs: str


@app.post("/predict")
def predict(request: Request) -> list[float]:
    """Return the probabilities of a text; FastAPI runs this in a pool of threads."""
    with torch.inference_mode():
        embedding = encoder.encode([request.inputs], convert_to_tensor=True, show_progress_bar=False)
        probabilities: list[float] = head(embedding).softmax(dim=-1)[0].tolist()
    return probabilities


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
