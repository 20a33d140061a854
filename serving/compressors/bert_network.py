"""BERT text classifiers in PyTorch: the encoder, mean pooling, and a linear head.

Architecture: Devlin and others, "BERT: Pre-training of Deep Bidirectional Transformers for
Language Understanding" (2019). Written out here because its library form depends on packages
that do not import beside the CPU build of torch, and because this much is all that is needed.
It imports torch at once: import it where a network is made, not before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from serving.errors import BadInput

_MASKED = -1e4  # added to the score of a padding token; its weight is then exactly zero
_EPSILON = 1e-12

# Names in published weight files, and here. Each stands for a weight and a bias.
_LAYER_NAMES = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "merge",
    "attention.output.LayerNorm": "merge_norm",
    "intermediate.dense": "widen",
    "output.dense": "narrow",
    "output.LayerNorm": "narrow_norm",
}


@dataclass(frozen=True)
class Geometry:
    """How large an encoder is."""

    layers: int
    hidden: int
    heads: int
    inner: int
    vocabulary: int = 30522
    longest: int = 512


MINILM = Geometry(layers=6, hidden=384, heads=12, inner=1536)
BERT_BASE = Geometry(layers=12, hidden=768, heads=12, inner=3072)


class _Layer(nn.Module):  # type: ignore[misc] # torch is seen as untyped
    """Self-attention and two linear layers, each added to what came in."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        size = geometry.hidden
        self.heads = geometry.heads
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.merge = nn.Linear(size, size)
        self.merge_norm = nn.LayerNorm(size, eps=_EPSILON)
        self.widen = nn.Linear(size, geometry.inner)
        self.narrow = nn.Linear(geometry.inner, size)
        self.narrow_norm = nn.LayerNorm(size, eps=_EPSILON)

    def forward(self, states: Any, masked: Any) -> Any:
        """States in, states out: [batch, tokens, hidden]."""
        query, key, value = (
            linear(states).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=masked)
        states = self.merge_norm(states + self.merge(seen.transpose(1, 2).flatten(2)))
        wide = functional.gelu(self.widen(states))
        return self.narrow_norm(states + self.narrow(wide))


class Bert(nn.Module):  # type: ignore[misc] # as above
    """A classifier with random weights: (input_ids, attention_mask) to logits.

    Both inputs are [batch, tokens]; tokens where the mask is 0 change nothing.
    """

    def __init__(self, geometry: Geometry, classes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(geometry.vocabulary, geometry.hidden)
        # A parameter, of which the beginning is taken: a text that is too long fails in
        # every runtime, where some look up zeros beyond the end of a table.
        self.positions = nn.Parameter(0.02 * torch.randn(geometry.longest, geometry.hidden))
        self.norm = nn.LayerNorm(geometry.hidden, eps=_EPSILON)
        self.layers = nn.ModuleList(_Layer(geometry) for _ in range(geometry.layers))
        self.head = nn.Linear(geometry.hidden, classes)

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """Logits, [batch, classes]."""
        return self.head(self.pooled(input_ids, attention_mask))

    def pooled(self, input_ids: Any, attention_mask: Any) -> Any:
        """Mean of the last layer's states over the tokens of each text, [batch, hidden]."""
        states = self.norm(self.words(input_ids) + self.positions[: input_ids.shape[1]])
        share = attention_mask.to(states.dtype)
        masked = ((1.0 - share) * _MASKED)[:, None, None, :]
        for layer in self.layers:
            states = layer(states, masked)
        summed = (states * share[:, :, None]).sum(1)
        return summed / share.sum(1, keepdim=True).clamp(min=1.0)


def load_encoder(module: Bert, path: Path) -> None:
    """Give the module the weights of a published ``.safetensors`` file.

    BadInput when the file cannot be read, or holds another architecture or size.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError:
        raise BadInput(
            f"{path}: reading it needs safetensors; install it with: pip install 'tonnage[text]'"
        ) from None
    try:
        stored = load_file(path)
        state = {f"head.{key}": value for key, value in module.head.state_dict().items()}
        state["words.weight"] = stored["embeddings.word_embeddings.weight"]
        # Texts are never given in pairs, so the first kind of segment is all there is.
        segment = stored["embeddings.token_type_embeddings.weight"][0]
        state["positions"] = stored["embeddings.position_embeddings.weight"] + segment
        for kind in ("weight", "bias"):
            state[f"norm.{kind}"] = stored[f"embeddings.LayerNorm.{kind}"]
            for number in range(len(module.layers)):
                for theirs, ours in _LAYER_NAMES.items():
                    weights = stored[f"encoder.layer.{number}.{theirs}.{kind}"]
                    state[f"layers.{number}.{ours}.{kind}"] = weights
        module.load_state_dict(state)
    except KeyError as error:
        raise BadInput(f"{path}: holds no BERT encoder; {error.args[0]} is missing") from None
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: safetensors cannot read this file ({error})") from None
    except RuntimeError as error:
        told = str(error).strip().splitlines()[-1].strip()
        raise BadInput(f"{path}: holds a BERT of another size ({told})") from None
