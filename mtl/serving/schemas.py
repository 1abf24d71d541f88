"""The forms of requests and answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_MOST_FIELDS = 100
Texts = str | Annotated[list[str], Field(fail_fast=True)]
"""A wrong element is reported alone: a million of them, which fit a body, would take half a gigabyte."""
Level = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, values: Any) -> Any:
        """Refuse an object with many fields as a whole; each unknown one would be a problem of its own."""
        if isinstance(values, dict) and len(values) > _MOST_FIELDS:
            raise ValueError(f"at most {_MOST_FIELDS} fields")
        return values


class Parameters(_Strict):
    """What clients of the Inference API send beside the inputs."""

    top_k: int | None = Field(default=None, ge=1)
    function_to_apply: Literal["softmax"] | None = None


class _Inputs(_Strict):
    inputs: Texts
    truncate: Literal[True] | None = Field(default=None, description="Longer texts are always truncated.")
    truncation_direction: Literal["right", "Right"] | None = None
    prompt_name: str | None = None


class PredictRequest(_Inputs):
    """A text or several to predict."""

    raw_scores: Literal[False] | None = None
    parameters: Parameters | None = Field(
        default=None, description="If it is there, one text is answered as by the Inference API: a list in a list."
    )


class PredictQuery(_Strict):
    """What to predict: in the address, where clients of other servers can give it too."""

    task: str | None = Field(default=None, description="One task: its labels with their scores, as TEI does.")
    coverage: Level | None = Field(
        default=None, description="Adds the labels that cannot be ruled out: this share of the texts has its own there."
    )
    max_risk: Level | None = Field(
        default=None, description="Adds whether to abstain: at most this share of the answers is wrong."
    )
    nearest: int | None = Field(
        default=None, ge=1, le=20, description="Adds so many of the rows of examples= that are nearest."
    )


class EmbedRequest(_Inputs):
    """A text or several to embed."""

    normalize: bool | None = Field(default=None, description="true: length 1; else as the model gives them.")


class OpenAIRequest(_Strict):
    """A text or several to embed, as OpenAI's clients send them."""

    input: Texts
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


class NearestRow(BaseModel):
    """A row of the file ``examples=`` near a text."""

    text: str
    label: str | None = Field(description="null: the server was told no column of labels for the task.")
    source: str = Field(description="Its file and line.")
    similarity: float = Field(ge=-1, le=1, description="The cosine of the embeddings.")


class Shares(BaseModel):
    """A label with the probabilities of all labels."""

    label: str
    probabilities: dict[str, float]


class TaskAnswer(Shares):
    """The prediction of a task for a text."""

    coarse: Shares | None = Field(default=None, description="Of a head with several stages.")
    set: list[str] | None = Field(default=None, description="With coverage: the labels that cannot be ruled out.")
    abstain: bool | None = Field(default=None, description="With max_risk: whether the model is too unsure to answer.")
    nearest: list[NearestRow] | None = Field(default=None, description="With nearest, the nearest row first.")


class Score(BaseModel):
    """A label with its score, as text-embeddings-inference answers; what is beside it its clients pass over."""

    label: str
    score: float
    in_set: bool | None = Field(default=None, description="With coverage: whether the label cannot be ruled out.")
    abstain: bool | None = Field(default=None, description="With max_risk; the same for all labels of a text.")


PredictAnswer = dict[str, TaskAnswer] | list[dict[str, TaskAnswer]] | list[Score] | list[list[Score]]


class OpenAIEmbedding(BaseModel):
    """An embedding, as a list of numbers or base64 of float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class OpenAIAnswer(BaseModel):
    """The embeddings of the texts, in their order."""

    object: Literal["list"]
    data: list[OpenAIEmbedding]
    model: str
    usage: dict[str, int]


class Status(BaseModel):
    """The state of the server."""

    status: str


class Info(BaseModel):
    """The model, and what the server was started with."""

    model: str
    version: str
    tasks: dict[str, list[str]] = Field(description="The labels of each task, in the order of the probabilities.")
    can_abstain: dict[str, bool] = Field(description="Whether a task can be asked for coverage and max_risk.")
    coverage: float | None = Field(description="What holds for requests without their own.")
    max_risk: float | None
    examples: int = Field(description="The number of rows that nearest searches; 0: none.")
    dimension: int
    max_length: int
    precision: str
    device: str
    limits: dict[str, int]


class Problems(BaseModel):
    """The one form of all errors."""

    error: str
    error_type: str
    problems: list[dict[str, str]]


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problems} for status in (400, 401, 403, 408, 413, 415, 422, 429, 500, 503, 504)
}
